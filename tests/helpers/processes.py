"""Runs in several processes: commands that share one start of a group, and commands in a process of their own, started
as a user does or forked from one that has imported everything."""

import functools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from dialog_trainer.cli import launch
from dialog_trainer.cli.main import entry, main
from dialog_trainer.distributed import collectives, launcher
from dialog_trainer.distributed.store import ControlStore
from dialog_trainer.training.checkpoint_directory import locate

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
# What takes five seconds to import, once in a session.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *(f"dialog_trainer.cli.commands.{name}" for name in ("train", "resume", "validate", "chat", "inspect")),
        "dialog_trainer.distributed.launcher",
        "transformers.models.gpt2.modeling_gpt2",
        "datasets",
        "sacrebleu.metrics.bleu",
        "pytest",
    ]
)
WAIT_SECONDS = 90.0
# A run to copy first, where to, and the command line.
Command = tuple[str | None, str | None, list[str]]


def run_together(folder: Path, size: int, commands: list[Command]) -> None:
    """Runs commands one after the other as one group of `size` processes, which start once."""
    if size == 1:
        run_in_group(None, json.dumps(commands))
        return
    with forked((size, run_in_group, json.dumps(commands)), folder, entry=launch_group) as job:
        code, output = job.ended(300)
        assert code == 0, output


def launch_group(size: int, work: Callable[[ControlStore, str], int], argument: str) -> None:
    """`launch_local` as the entry of a forked process."""
    sys.exit(launcher.launch_local(size, None, work, argument))


def run_in_group(control: ControlStore | None, argument: str) -> int:
    """The work of `run_together`. Rank 0 composes each command; where it would launch processes, those of the group that
    is there do the job."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        if control:
            stack.enter_context(collectives.join_process_group(control, 60.0))
            share = collectives.broadcast_from_rank0
            patch.setattr(launcher, "launch_local", lambda size, port, work, job: work(control, share(lambda: job)))
            patch.setattr(collectives, "join_process_group", lambda control, timeout_seconds: nullcontext())
            # Of a compiled run, what Dynamo captures: its graphs and machine code take a minute.
            compiled = functools.partialmethod(torch.nn.Module.compile, backend="eager")
            patch.setattr(torch.nn.Module, "compile", compiled)
        for source, target, options in json.loads(argument):
            if source:
                collectives.broadcast_from_rank0(lambda s=source, t=target: bool(shutil.copytree(s, t, symlinks=True)))
            if collectives.is_rank0():
                assert main([*options, "figures.enabled=false"]) == 0, options
            else:
                assert launch._run_in_group(control, collectives.broadcast_from_rank0(str)) == 0, options
    return 0


def run_forked(entry: Callable[..., None], arguments: tuple, folder: Path, file: Path, environ: dict[str, str]) -> None:
    """The process of `forked`."""
    os.setsid()
    os.chdir(folder)
    with file.open("wb") as out:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)
    os.environ.update(environ)
    # The server's method names locks, and those of a killed process are reported as leaked.
    multiprocessing.set_start_method("fork", force=True)
    sys.path[:0] = [str(folder), *environ.get("PYTHONPATH", "").split(os.pathsep)]
    # The ranks of a group are forked too.
    launcher.start_processes = functools.partial(launcher.start_processes, start_method="fork")
    entry(*arguments)


def run_command(*options: str) -> None:
    """`python -m dialog_trainer`, in a process that has imported it."""
    sys.argv[1:] = options
    entry()


class Started:
    """A command in a process of its own, whose output goes into a file; all that it started is killed at the end."""

    def __init__(self, process: subprocess.Popen | multiprocessing.Process, file: Path):
        self.process = process
        self.file = file
        self.pid = process.pid
        self.seen: set[int] = set()

    def output(self) -> str:
        return self.file.read_text() if self.file.exists() else ""  # killed before its first line

    def until(self, holds: Callable[[], object], what: str):
        """The first true value of `holds()`; fails when the command ends before."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            found = holds()
            if found:
                return found
            assert self._exit_code() is None, f"ended before {what}: {self.output()}"
            time.sleep(0.02)
        raise AssertionError(f"no {what} within {WAIT_SECONDS} s: {self.output()}")

    def workers(self, count: int) -> list[int]:
        """The spawned ranks, in order."""

        def found():
            pids = sorted(pid for pid in descendants(self.pid) if b"resource_tracker" not in command_of(pid))
            self.seen |= set(pids)
            return pids if len(pids) == count else None

        return self.until(found, f"{count} processes")

    def row(self, metrics: Path, step: int) -> None:
        """Waits for the row of this step."""
        self.until(lambda: metrics.exists() and re.search(rf'"step": {step},', metrics.read_text()), f"step {step}")

    def ended(self, seconds: float = WAIT_SECONDS) -> tuple[int, str]:
        """Exit code and output."""
        end = time.monotonic() + seconds
        while (code := self._exit_code()) is None:
            assert time.monotonic() < end, f"still there after {seconds} s: {self.output()}"
            time.sleep(0.02)
        return code, self.output()

    def left(self, seconds: float) -> set[int]:
        """The seen processes that are still alive after `seconds`."""
        return wait_while_there(self.seen, seconds)

    def clear(self) -> None:
        for pid in {self.pid, *descendants(self.pid), *self.seen}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.ended()

    def _exit_code(self) -> int | None:
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode


@contextmanager
def started(command: list[str], folder: Path, name: str = "output", **environ: str):
    """Starts a command as a user does."""
    file = folder / f"{name}.txt"
    environ = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1", **environ}
    with file.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=environ, start_new_session=True
        )
    run = Started(process, file)
    try:
        yield run
    finally:
        run.clear()


@contextmanager
def forked(options: Sequence[object], folder: Path, entry=run_command, **environ: str):
    """Runs `entry(*options)`, the command line where nothing else is said, in a fork of a process that has imported
    everything: a start takes no time."""
    file = folder / "output.txt"
    file.unlink(missing_ok=True)  # of an earlier command: this one may be killed before it opens the file
    process = SERVER.Process(target=run_forked, args=(entry, tuple(options), folder, file, environ))
    process.start()
    run = Started(process, file)
    try:
        yield run
    finally:
        run.clear()


def dialog_trainer(*options: str) -> list[str]:
    return [sys.executable, "-m", "dialog_trainer", *options]


def torchrun(*arguments: str) -> list[str]:
    """Flags of torchrun, `--`, then the overrides."""
    split = arguments.index("--")
    return [
        sys.executable, "-m", "torch.distributed.run", *arguments[:split], "-m", "dialog_trainer", *arguments[split + 1 :]
    ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parents() -> dict[int, int]:
    """The parent of each living process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(path.parent.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    tree = parents()
    found = {pid}
    while True:
        more = {child for child, parent in tree.items() if parent in found} - found
        if not more:
            return found - {pid}
        found |= more


def wait_while_there(pids: set[int], seconds: float) -> set[int]:
    end = time.monotonic() + seconds
    while True:
        there = pids & parents().keys()
        if not there or time.monotonic() >= end:
            return there
        time.sleep(0.05)


def rows(run: Path, split: str) -> list[dict]:
    """Rows of a split, without values that differ between equal runs."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    unlike = ("time_seconds", "tokens_per_second", "data_seconds", "attempt")
    return [{k: v for k, v in row.items() if k not in unlike} for row in found if row["split"] == split]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def state(run: Path) -> dict:
    """That of the newest checkpoint; after a kill there may be no `weights/last` until the resume."""
    return json.loads((run / (locate(run, "last") or "") / "trainer/state.json").read_text())
