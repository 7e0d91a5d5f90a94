"""Trackers: feeds the committed rows of `metrics.jsonl` to TensorBoard or another logger, outside the training step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dialog_trainer.tracking.jsonl import Row, read_rows_after

READ_EVERY_SECONDS = 1.0
CLOSE_SECONDS = 30.0


class Tracker(Protocol):
    """Shows a run somewhere else. A tracker of your own is one class with these two methods; it needs no base class.

    Configure it with `logger._target_=my_module.MyTracker`; other keys of `logger` become arguments of its constructor.
    A constructor that has a parameter `run_directory` gets the folder of the run (a `Path`). All calls come from one
    background thread, on rank 0 alone. Whatever a tracker raises turns it off, with one warning; the run goes on.
    """

    def log(self, row: Row) -> None:
        """Called once for each row that this attempt writes to `metrics.jsonl`, in order: `step`, `epoch`, `attempt`,
        `split` (`train`, `validation`, `probe`), `time_seconds`, then the values: numbers, None or text."""

    def close(self) -> None:
        """Called once, after the last row."""


class RowFeeder:
    """Feeds a tracker with the rows that are appended to `metrics` from now on. A context manager.

    A background thread reads the file every second, so a slow tracker delays no step. Leaving the block waits for the
    last rows, but at most 30 s: a tracker that hangs must not keep a run alive.
    """

    def __init__(self, metrics: Path, build: Callable[[], Tracker], warn: Callable[[str], None]):
        self._metrics, self._build, self._warn = metrics, build, warn
        self._offset = metrics.stat().st_size if metrics.exists() else 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def __enter__(self) -> RowFeeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._warn(
                f"note: the logger was not done {CLOSE_SECONDS:.0f} s after the run; its last rows may be missing"
            )

    def _run(self) -> None:
        try:
            tracker = self._build()
        except Exception as error:  # code of the user's or of a library: whatever it raises, the run goes on
            self._report(error)
            return
        try:
            while not self._ending.wait(READ_EVERY_SECONDS):
                self._feed(tracker)
            self._feed(tracker)
        except Exception as error:
            self._report(error)
        try:
            tracker.close()
        except Exception as error:
            self._report(error)

    def _feed(self, tracker: Tracker) -> None:
        rows, self._offset = read_rows_after(self._metrics, self._offset)
        for row in rows:
            tracker.log(row)

    def _report(self, error: Exception) -> None:
        warn, self._warn = self._warn, _ignore  # one warning a run
        warn(f"note: the logger failed and is off from here on ({type(error).__name__}: {error}); the run goes on")


def _ignore(_: str) -> None:
    """In place of a warning that was given already."""
