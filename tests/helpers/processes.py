"""Work for several processes of a test: jobs of the command line that share one start, and runs started outside."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dialog_trainer.cli.launch import _run
from dialog_trainer.config.job import Job
from dialog_trainer.distributed import collectives
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


def in_one_start(size: int, texts: list[str]) -> int:
    """Does all these jobs, one after the other, in the same `size` processes; returns the worst exit code.

    One process is in no group, as if the command had been given alone.
    """
    return launch_local(size, None, each_job, json.dumps(texts))


def each_job(control: ControlStore, argument: str) -> int:
    with collectives.join_process_group(control, 60.0) if control.rank_info.size > 1 else nullcontext():
        return max(_run(Job.from_json(text)) for text in json.loads(argument))


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
        """The first true value of `holds()`, while the command goes on."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            found = holds()
            if found:
                return found
            assert self.process.poll() is None, f"ended before {what}: {self.output()}"
            time.sleep(0.02)
        raise AssertionError(f"no {what} within {WAIT_SECONDS} s: {self.output()}")

    def workers(self, count: int) -> list[int]:
        """The processes that do the work, by rank: those of the spawn method, in the order in which they were started."""

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
        """Of the processes seen, those that are still there after so long."""
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
    """Flags of torchrun, `--`, then the options of the program."""
    split = arguments.index("--")
    return [
        sys.executable, "-m", "torch.distributed.run", *arguments[:split], "-m", "dialog_trainer", *arguments[split + 1 :]
    ]  # fmt: skip


def path_with(folder: Path) -> str:
    """PYTHONPATH for code of a test's own."""
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
    """Parent by process, without those that have ended and are only waited for."""
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
    """Rows of a split, without what may differ between runs that are equal."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    unlike = ("time_seconds", "tokens_per_second", "data_seconds", "attempt")
    return [{k: v for k, v in row.items() if k not in unlike} for row in found if row["split"] == split]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def state(run: Path) -> dict:
    return json.loads((run / "weights/last/trainer/state.json").read_text())
