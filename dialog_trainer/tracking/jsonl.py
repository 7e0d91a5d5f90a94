"""The only writer of the rows of a run: `metrics.jsonl` and `replies.jsonl`. Rows are appended, never rewritten."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from dialog_trainer.errors import TrainingError


class JsonlWriter:
    """Appends one JSON object a line; a line is written whole and flushed at once."""

    def __init__(self, path: Path):
        self._file = path.open("ab+")
        # A killed process may have left half a line: end it, so that the next row stands alone.
        if self._file.tell():
            self._file.seek(-1, 2)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")
                self._file.flush()

    def append(self, rows: Iterable[dict]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        try:
            self._file.write(lines.encode("utf-8"))
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self._file.name} cannot be written: {error.strerror}. The checkpoints are untouched: make room, then "
                "mode=resume load_model_type=last"
            ) from None

    def close(self) -> None:
        self._file.close()


class MetricWriter(JsonlWriter):
    """Rows of `metrics.jsonl`: `step`, `epoch`, `attempt`, `split`, `time_seconds`, then the values.

    `time_seconds` counts from the start of the attempt.
    """

    def __init__(self, path: Path, attempt: int):
        super().__init__(path)
        self._attempt, self._start = attempt, time.monotonic()

    def add(self, *, step: int, epoch: int, split: str, values: dict[str, float | None]) -> None:
        time_seconds = round(time.monotonic() - self._start, 3)
        head = {"step": step, "epoch": epoch, "attempt": self._attempt, "split": split, "time_seconds": time_seconds}
        self.append([head | values])


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a file, in order; a half-written line, or one of something else, is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                yield row


def read_next_attempt(path: Path) -> int:
    """One more than the highest attempt of the rows."""
    return 1 + max((row["attempt"] for row in read_rows(path) if "attempt" in row), default=-1)


def read_newest_rows(path: Path, split: str) -> list[dict]:
    """One row for each step of `split`, that of the newest attempt, by step.

    An attempt starts anew at its first step: later steps of older attempts are no longer part of the run. (The
    validation that has that number was made after as many updates, so it still is.)
    """
    kept: dict[int, dict] = {}
    attempt = 0
    for row in (row for row in read_rows(path) if {"step", "attempt", "split"} <= set(row)):
        if row["attempt"] > attempt:
            attempt = row["attempt"]
            last = row["step"] - (split == "train")
            kept = {step: old for step, old in kept.items() if step <= last}
        if row["split"] == split:
            kept[row["step"]] = row
    return [kept[step] for step in sorted(kept)]
