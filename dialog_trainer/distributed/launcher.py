"""Starts the ranks of a run on this machine, forwards signals to them, and ends with them; joins a torchrun or Slurm job."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import resource_tracker
from pathlib import Path

import torch.distributed as dist
from torch.distributed import (  # type: ignore[attr-defined]  # as `Store` in store.py
    FileStore,
    PrefixStore,
    Store,
    TCPStore,
)
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from dialog_trainer.distributed.environment import RankInfo, rendezvous_address
from dialog_trainer.distributed.failures import GONE, RESUME_HINT, run_as_rank
from dialog_trainer.distributed.store import ControlStore, read_failure
from dialog_trainer.errors import ConfigError, DistributedError
from dialog_trainer.screen import write_line
from dialog_trainer.signals import (
    EXIT_CODES,
    NOTHING_TO_SAVE,
    block_stops,
    end_at_once_on_stop,
    handled,
    raise_on_stop,
)

HOST = "127.0.0.1"
# After a failure the other ranks get this time to end by themselves, then as much to obey SIGTERM.
GRACE_SECONDS = 2.5
# Some ranks may load for minutes before they come to the rendezvous.
RENDEZVOUS_SECONDS = 600.0

# The work of one rank: from its control store, and the argument that all ranks get, to an exit code.
Work = Callable[[ControlStore, str], int]


def launch_local(size: int, port: int | None, work: Work, argument: str) -> int:
    """Runs `work` (a module-level function) in `size` spawned processes; returns the exit code.

    Their rendezvous is a file in a temporary directory or, with `port`, that port of this machine. No child outlives
    this process. Raises `ConfigError` if the port is taken.
    """
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # its warnings repeat the message below
    with tempfile.TemporaryDirectory(prefix="dialog_trainer-") as directory:
        store = _open_store(directory, port, hosts=True)
        pids: list[int] = []
        with _forward_signals(pids) as received:
            with _hold_signals():
                context = start_processes(  # type: ignore[no-untyped-call]  # torch has no annotations here
                    _run_child, (os.getpid(), size, directory, port, work, argument), nprocs=size, join=False
                )
                pids += context.pids()
            try:
                while not context.join(grace_period=GRACE_SECONDS):
                    continue
                return 0
            except ProcessExitedException as error:
                first_exit = error
        failure = read_failure(store)
        if failure is not None:
            ends = {_describe_exit(context.processes[rank].exitcode) for rank in failure.gone}
            write_line(failure.text.replace(GONE, ends.pop() if len(ends) == 1 else GONE, 1), sys.stderr)
            return failure.exit_code
        if first_exit.exit_code < 0 and received:
            write_line(NOTHING_TO_SAVE, sys.stderr)
            return EXIT_CODES[received[0]]
        if first_exit.exit_code < 0:
            reason = _describe_exit(first_exit.exit_code)
            write_line(f"rank {first_exit.error_index} of {size} {reason}. {RESUME_HINT}", sys.stderr)
        return max(first_exit.exit_code, 1)


def _describe_exit(exit_code: int) -> str:
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else GONE


def _run_child(rank: int, parent: int, size: int, directory: str, port: int | None, work: Work, argument: str) -> None:
    if os.getppid() != parent:  # it ended before torch asked the kernel to end this process with it
        os._exit(1)
    # A terminal sends Ctrl-C to a whole process group: leave it, because the parent forwards signals.
    os.setpgid(0, 0)
    control = ControlStore(_open_store(directory, port, hosts=False), RankInfo(rank, size, rank, size, machine=0))

    def run_work() -> int:
        end_at_once_on_stop()
        raise_on_stop()
        block_stops(False)  # signals held since the start arrive now
        return work(control, argument)

    run_as_rank(control, run_work, prints=False)


def open_environment_store(rank_info: RankInfo) -> ControlStore:
    """The control store of a torchrun or Slurm job. Raises `DistributedError` if the ranks do not rendezvous."""
    host, port = rendezvous_address()
    os.environ |= {
        "RANK": str(rank_info.rank),
        "WORLD_SIZE": str(rank_info.size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=RENDEZVOUS_SECONDS)))
    except (dist.DistError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        raise DistributedError(
            f"rank {rank_info.rank} of {rank_info.size} could not rendezvous at {host}:{port} (MASTER_ADDR, MASTER_PORT): "
            f"{cause}; start all processes within {RENDEZVOUS_SECONDS:.0f} s, with a free port"
        ) from None
    return ControlStore(PrefixStore("dialog_trainer", store), rank_info)


def _open_store(directory: str, port: int | None, hosts: bool) -> Store:
    if port is None:
        return FileStore(str(Path(directory) / "store"), -1)
    if hosts:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise ConfigError([f"port={port}: {error.strerror}; pass another, or port=null for none"]) from None
    return TCPStore(HOST, port, is_master=hosts, wait_for_workers=False)


@contextmanager
def _forward_signals(pids: list[int]) -> Iterator[list[signal.Signals]]:
    """Within the block stop signals go to the processes `pids`, which stop together. Yields the received ones."""
    received: list[signal.Signals] = []

    def forward(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    previous = {number: signal.signal(number, forward) for number in handled()}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _hold_signals() -> Iterator[None]:
    """Blocks stop signals here and in processes started within the block, until each is ready to receive them."""
    resource_tracker.ensure_running()  # started later, it would unblock them
    block_stops(True)
    try:
        yield
    finally:
        block_stops(False)
