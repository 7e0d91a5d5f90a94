"""Runs in several processes: commands that share one start of a group, and commands started as a user does."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from dialog_trainer.cli.main import main
from dialog_trainer.distributed import collectives, launcher
from dialog_trainer.distributed.launcher import launch_local
from dialog_trainer.distributed.store import ControlStore

ROOT = Path(__file__).resolve().parents[2]
ENVIRON = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
}
WAIT_SECONDS = 90.0
# A run to copy first, where to, and the command line.
Command = tuple[str | None, str | None, list[str]]


def run_together(size: int, commands: list[Command]) -> None:
    """Runs commands one after the other as one group of `size` processes, which start once: a start takes seconds."""
    if size == 1:
        run_in_group(None, json.dumps(commands))
    else:
        assert launch_local(size, None, run_in_group, json.dumps(commands)) == 0


def run_in_group(control: ControlStore | None, argument: str) -> int:
    """The work of `run_together`. Each rank composes each command; where a command would launch processes, it joins the
    group that is there."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        if control:
            stack.enter_context(collectives.join_process_group(control, 60.0))
            patch.setattr(launcher, "launch_local", lambda size, port, work, text: work(control, text))
            patch.setattr(collectives, "join_process_group", lambda control, timeout_seconds: nullcontext())
        for source, target, options in json.loads(argument):
            if source:
                collectives.broadcast_from_rank0(lambda s=source, t=target: bool(shutil.copytree(s, t, symlinks=True)))
            assert main([*options, "figures.enabled=false"]) == 0, options
    return 0


class Started:
    """A command in a process of its own, whose output goes into a file; all that it started is killed at the end."""

    def __init__(self, command: list[str], folder: Path, name: str = "output", **environ: str):
        self.file = folder / f"{name}.txt"
        with self.file.open("w") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=ENVIRON | environ, start_new_session=True
            )
        self.pid = self.process.pid
        self.seen: set[int] = set()

    def output(self) -> str:
        return self.file.read_text()

    def until(self, holds: Callable[[], object], what: str):
        """The first true value of `holds()`; fails when the command ends before."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            found = holds()
            if found:
                return found
            assert self.process.poll() is None, f"ended before {what}: {self.output()}"
            time.sleep(0.02)
        raise AssertionError(f"no {what} within {WAIT_SECONDS} s: {self.output()}")

    def workers(self, count: int) -> list[int]:
        """The spawned ranks, in order."""

        def found():
            pids = sorted(pid for pid in descendants(self.pid) if b"spawn_main" in command_of(pid))
            self.seen |= set(pids)
            return pids if len(pids) == count else None

        return self.until(found, f"{count} processes")

    def row(self, metrics: Path, step: int) -> None:
        """Waits for the row of this step."""
        self.until(lambda: metrics.exists() and re.search(rf'"step": {step},', metrics.read_text()), f"step {step}")

    def ended(self, seconds: float = WAIT_SECONDS) -> tuple[int, str]:
        """Exit code and output."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds} s: {self.output()}") from None
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
        self.process.wait()


@contextmanager
def started(command: list[str], folder: Path, name: str = "output", **environ: str):
    run = Started(command, folder, name, **environ)
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


def path_with(folder: Path) -> str:
    """PYTHONPATH with the modules of a test."""
    return os.pathsep.join([ENVIRON["PYTHONPATH"], str(folder)])


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
    return json.loads((run / "weights/last/trainer/state.json").read_text())
