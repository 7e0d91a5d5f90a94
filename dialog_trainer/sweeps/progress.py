"""What a sweep prints while its jobs run: a line when one starts and ends, and how far all are."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dialog_trainer.amounts import format_clock
from dialog_trainer.errors import CheckpointError
from dialog_trainer.reporting.terminal import print_line
from dialog_trainer.sweeps.record import JobRecord
from dialog_trainer.tracking.jsonl import read_newest_rows

PLAIN_EVERY_SECONDS = 60.0


class JobNotes:
    """The notes of the jobs of a sweep, each once."""

    def __init__(self) -> None:
        self._noted = dict[str, None]()

    def add(self, job: str, lines: Iterable[str]) -> list[str]:
        """What to print of the notes of a job: those that no job before it had, below a heading."""
        new = [line for line in lines if line not in self._noted]
        heading = f"new notes of {job}:" if self._noted else f"notes of {job}; of later jobs only new ones follow:"
        self._noted |= dict.fromkeys(new)
        return [heading, *(f"  {line}" for line in new)] if new else []


class SweepProgress:
    """Prints lines and, on a terminal, a live one below them. Use as a context manager."""

    def __init__(self, console: Console, steps: int):
        self._console, self._left = console, max(1, steps)
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._start = self._last = time.monotonic()
        self._notes = JobNotes()

    def __enter__(self) -> SweepProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str) -> None:
        print_line(self._console, text)

    def notes(self, job: str, lines: Iterable[str]) -> None:
        """Prints those notes of a job that no job before it had."""
        for line in self._notes.add(job, lines):
            self.line(line)

    def show(self, running: int, left: int, done: int) -> None:
        """`left` and `done`: updates of this command that are still to be made, and that it has made."""
        now = time.monotonic()
        seconds = (now - self._start) / done * left if done else None
        share = 100 * (1 - min(1.0, left / self._left))
        remaining = "" if seconds is None else f", about {format_clock(seconds)} left"
        text = f"{running} running, {share:.0f} % of the steps of this sweep done{remaining}"
        if self._live:
            self._live.update(Text(text, no_wrap=True), refresh=True)
        elif now - self._last >= PLAIN_EVERY_SECONDS:
            self._last = now
            self.line(text)


def describe_end(folder: Path, job: JobRecord) -> str:
    """One line on how a job ended."""
    if job.status == "failed":
        return f"failed at step {job.steps_done:,}: {job.error}"
    if job.status == "stopped":
        return f"stopped at step {job.steps_done:,} of {job.steps:,}"
    rows = []
    with suppress(CheckpointError):
        rows = read_newest_rows(folder / job.name / "metrics.jsonl", "validation")
    losses = [row["validation_loss"] for row in rows if row.get("validation_loss") is not None]
    found = f", validation loss {losses[-1]:.4f} (best {min(losses):.4f})" if losses else ""
    return f"{job.end} at step {job.steps_done:,}{found}, {format_clock(job.seconds)}"
