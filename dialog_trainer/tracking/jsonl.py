"""Appends and reads the rows of a run: `metrics.jsonl` and `replies.jsonl`. No row is ever rewritten."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dialog_trainer.errors import TrainingError
from dialog_trainer.files import open_to_append

Row = dict[str, Any]


class JsonlWriter:
    """Appends one JSON object a line. Each call writes complete lines and flushes them."""

    def __init__(self, run: Path, name: str):
        self._file = open_to_append(run, name)
        self._path = run / name
        # A killed process may have left half a line: end it, so that the next row starts a line of its own.
        if self._file.tell():
            self._file.seek(-1, 2)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")
                self._file.flush()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raises `ValueError` for a number that is not finite, `TrainingError` where the disk takes no more."""
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        try:
            self._file.write(lines.encode("utf-8"))
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self._path} cannot be written: {error.strerror}. The checkpoints are untouched: make room, then "
                "mode=resume load_model_type=last"
            ) from None

    def close(self) -> None:
        self._file.close()


class MetricWriter(JsonlWriter):
    """Writes the rows of `metrics.jsonl`: `step`, `epoch`, `attempt`, `split`, `time_seconds`, then the values.

    `time_seconds` counts from the start of the attempt.
    """

    def __init__(self, run: Path, name: str, attempt: int):
        super().__init__(run, name)
        self._attempt, self._start = attempt, time.monotonic()

    def add(self, *, step: int, epoch: int, split: str, values: Mapping[str, Any]) -> None:
        time_seconds = round(time.monotonic() - self._start, 3)
        head = {"step": step, "epoch": epoch, "attempt": self._attempt, "split": split, "time_seconds": time_seconds}
        self.append([{**head, **values}])


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, in order. Skips a half-written line and a line that is no JSON object."""
    if path.exists():
        with path.open("rb") as file:
            yield from _parse_lines(file)


def read_rows_after(path: Path, offset: int) -> tuple[list[Row], int]:
    """The rows of the complete lines after byte `offset`, and the offset after them: where to continue reading."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        complete = file.read().rpartition(b"\n")[0]
    lines = complete.split(b"\n") if complete else []
    return list(_parse_lines(lines)), offset + sum(len(line) + 1 for line in lines)


def _parse_lines(lines: Iterable[bytes]) -> Iterator[Row]:
    for line in lines:
        try:
            row = json.loads(line.decode("utf-8", errors="replace"))
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            yield row


def read_next_attempt(path: Path) -> int:
    """One more than the highest attempt of the rows."""
    return 1 + max((row["attempt"] for row in read_rows(path) if "attempt" in row), default=-1)


def read_newest_rows(path: Path, split: str) -> list[Row]:
    """One row for each step of `split`, sorted by step: that of the newest attempt.

    An attempt replaces what earlier attempts wrote from its first step on. Their validation at exactly that step stays:
    it was made after as many updates as the checkpoint has. For example, attempt 0 writes training rows 0 to 3 and
    validations at 2 and 4; attempt 1 resumes at step 2. What stays of attempt 0 are its rows 0 and 1 and its validation
    at 2.
    """
    kept: dict[int, Row] = {}
    attempt = 0
    for row in (row for row in read_rows(path) if {"step", "attempt", "split"} <= row.keys()):
        if row["attempt"] > attempt:
            attempt = row["attempt"]
            last = row["step"] - (split == "train")
            kept = {step: old for step, old in kept.items() if step <= last}
        if row["split"] == split:
            kept[row["step"]] = row
    return [kept[step] for step in sorted(kept)]
