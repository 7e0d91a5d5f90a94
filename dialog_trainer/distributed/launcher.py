"""Starts the processes of a run on this machine and ends with them: no child outlives its parent, no failure is told twice."""

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
from torch.multiprocessing import ProcessExitedException, start_processes

from dialog_trainer.distributed.environment import RankInfo, rendezvous_address
from dialog_trainer.distributed.failures import GO_ON, GONE, NOTHING_TO_SAVE, run_as_rank
from dialog_trainer.distributed.store import ControlStore, read_failure
from dialog_trainer.errors import ConfigError, DistributedError

HOST = "127.0.0.1"
# So long the others may take to end by themselves, and then to obey SIGTERM, once one has failed.
GRACE_SECONDS = 2.5
# A process that waits to be met waits as long as the others may need to load.
MEETING_SECONDS = 600.0
_STOPS = {signal.SIGTERM, signal.SIGINT}

# The work of one process: its control, and the argument that all were given, to an exit code.
Work = Callable[[ControlStore, str], int]


def launch_local(size: int, port: int | None, work: Work, argument: str) -> int:
    """Runs `work` (a function of a module, not of a script) in `size` new processes; returns the exit code.

    They meet through a file in a folder of their own, or, where `port` is given, through that port of this machine.
    """
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # what it does is told below
    with tempfile.TemporaryDirectory(prefix="dialog_trainer-") as folder:
        store = _open(folder, port, hosts=True)
        pids: list[int] = []
        with _passed_on(pids) as received:
            with _held_back():
                context = start_processes(
                    _child, (os.getpid(), size, folder, port, work, argument), nprocs=size, join=False
                )
                pids += context.pids()
            try:
                while not context.join(grace_period=GRACE_SECONDS):
                    continue
                return 0
            except ProcessExitedException as error:
                first = error
        failure = read_failure(store)
        if failure is not None:
            ends = {_end_of(context.processes[rank].exitcode) for rank in failure.gone}
            print(failure.text.replace(GONE, ends.pop() if len(ends) == 1 else GONE, 1), file=sys.stderr)
            return failure.exit_code
        if first.exit_code < 0 and received:
            print(NOTHING_TO_SAVE, file=sys.stderr)
            return 128 + received[0]
        if first.exit_code < 0:
            print(f"rank {first.error_index} of {size} {_end_of(first.exit_code)}. {GO_ON}", file=sys.stderr)
        return max(first.exit_code, 1)


def _end_of(exit_code: int) -> str:
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else GONE


def _child(rank: int, parent: int, size: int, folder: str, port: int | None, work: Work, argument: str) -> None:
    if os.getppid() != parent:  # from here on its end is noticed
        os._exit(1)
    # Ctrl-C in a terminal goes to its whole group of processes: out of it, as the parent passes it on.
    os.setpgid(0, 0)
    control = ControlStore(_open(folder, port, hosts=False), RankInfo(rank, size, rank, size, machine=0))

    def worked() -> int:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)  # what came meanwhile comes now
        return work(control, argument)

    run_as_rank(control, worked, prints=False)


def open_environment_store(rank_info: RankInfo) -> ControlStore:
    """The control of a group that torchrun or Slurm has started. Raises `DistributedError` if there is no meeting."""
    host, port = rendezvous_address()
    os.environ |= {
        "RANK": str(rank_info.rank),
        "WORLD_SIZE": str(rank_info.size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=MEETING_SECONDS)))
    except (dist.DistError, RuntimeError) as error:
        raise DistributedError(
            f"rank {rank_info.rank} of {rank_info.size} finds no meeting at {host}:{port} (MASTER_ADDR, MASTER_PORT): "
            f"{str(error).splitlines()[0]}; start all processes within {MEETING_SECONDS:.0f} s, with a port that is free"
        ) from None
    return ControlStore(dist.PrefixStore("dialog_trainer", store), rank_info)


def _open(folder: str, port: int | None, hosts: bool) -> dist.Store:
    if port is None:
        return dist.FileStore(str(Path(folder) / "meeting"), -1)
    if hosts:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise ConfigError([f"port={port}: {error.strerror}; pass another, or port=null for none"]) from None
    return dist.TCPStore(HOST, port, is_master=hosts, wait_for_workers=False)


@contextmanager
def _passed_on(pids: list[int]) -> Iterator[list[signal.Signals]]:
    """Within the block SIGTERM and Ctrl-C go to the processes `pids`, who stop together; yields those that came."""
    received: list[signal.Signals] = []

    def note(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    before = {number: signal.signal(number, note) for number in _STOPS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _held_back() -> Iterator[None]:
    """Within the block signals wait, as they do in processes that are started there, until these can take them."""
    resource_tracker.ensure_running()  # where it is started later, it lets them through
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
