"""Appends and reads the rows of a run: `metrics.jsonl` and `replies.jsonl`. No row is ever rewritten.

A reader takes the file of a run for that of a stranger: it passes over whatever is no row.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from dialog_trainer.errors import CheckpointError, TrainingError
from dialog_trainer.files import open_to_append, open_to_read

Row = dict[str, Any]

# Of a line that anybody may have written into a run. The longest line of a run has a few thousand bytes, or the replies
# of a validation's samples.
MAX_LINE_BYTES = 2**22
MAX_COUNT = 2**53
# Larger values, which no run computes, overflow when they are drawn.
MAX_VALUE = 1e100
CHUNK_BYTES = 2**16
_TEXTS = {"split", "signature"}


class JsonlWriter:
    """Appends one JSON object a line. Each call writes complete lines and flushes them."""

    def __init__(self, run: Path, name: str):
        self._file = open_to_append(run, name)
        self._path = run / name
        self.removed_bytes = self._end_last_line()

    def _end_last_line(self) -> int:
        """Removes what a killed process left of a line, so that every line can be parsed; returns its bytes."""
        size = self._file.seek(0, os.SEEK_END)
        start = self._find_last_line(size)
        self._file.seek(start)
        if next(_parse_lines([self._file.read(MAX_LINE_BYTES)]), None):
            self._file.write(b"\n")
            self._file.flush()
            return 0
        self._file.truncate(start)
        return size - start

    def _find_last_line(self, size: int) -> int:
        """The byte after the last line end."""
        for start in range((size - 1) // CHUNK_BYTES * CHUNK_BYTES, -1, -CHUNK_BYTES):
            self._file.seek(start)
            place = self._file.read(CHUNK_BYTES).rfind(b"\n")
            if place >= 0:
                return start + place + 1
        return 0

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raises `ValueError` for a number that is not finite, `TrainingError` where the disk takes no more."""
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        try:
            # A lone surrogate, which rows of others may hold, is written as JSON escapes it.
            self._file.write(lines.encode("utf-8", errors="backslashreplace"))
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
    """The rows of a file, in order; none where it is missing. Passes over lines that are no rows: a half-written line,
    one longer than `MAX_LINE_BYTES`, one that is no JSON object or that holds a number that is not finite.

    Raises `CheckpointError` for what is no regular file.
    """
    yield from _parse_lines(read_lines(path))


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, with their ends, not parsed; none where it is missing. Passes over too long ones, and raises
    `CheckpointError`, as `read_rows` does."""
    with _open(path) as file:
        is_start = True
        while part := file.readline(MAX_LINE_BYTES):
            is_end = part.endswith(b"\n")
            if is_start and (is_end or len(part) < MAX_LINE_BYTES):
                yield part
            is_start = is_end


def read_rows_after(path: Path, offset: int) -> tuple[list[Row], int]:
    """The rows of the complete lines after byte `offset`, and the offset after them: where to continue reading."""
    with _open(path) as file:
        file.seek(offset)
        complete = file.read().rpartition(b"\n")[0]
    lines = complete.split(b"\n") if complete else []
    return list(_parse_lines(lines)), offset + sum(len(line) + 1 for line in lines)


def _open(path: Path) -> BinaryIO:
    try:
        return open_to_read(path.parent, path.name)
    except FileNotFoundError:
        return io.BytesIO()
    except OSError as error:
        raise CheckpointError(
            f"{path} {error.strerror}: replace it by the file that the run wrote, or remove it"
        ) from None


def _parse_lines(lines: Iterable[bytes]) -> Iterator[Row]:
    for line in lines:
        try:
            row = json.loads(line.decode("utf-8", errors="replace"), parse_constant=_refuse, parse_float=_read_float)
        except (ValueError, RecursionError):  # too many digits, or brackets
            continue
        if isinstance(row, dict):
            yield row


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def _read_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def read_metric_rows(path: Path) -> Iterator[Row]:
    """The rows of `metrics.jsonl`: `step` and `attempt` count, `split` and `signature` are texts, all else is a number or
    None. Passes over other rows, and raises `CheckpointError`, as `read_rows` does."""
    yield from parse_metric_rows(read_lines(path))


def parse_metric_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows of lines of `metrics.jsonl`, as `read_metric_rows`."""
    for row in _parse_lines(lines):
        counts = all(type(row.get(key)) is int and 0 <= row[key] < MAX_COUNT for key in ("step", "attempt"))
        texts = all(isinstance(row.get(key, ""), str) for key in _TEXTS)
        if counts and texts and "split" in row and all(map(_is_value, (row[key] for key in row.keys() - _TEXTS))):
            yield row


def _is_value(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) < MAX_VALUE)


def copy_rows(run: Path, new: Path, name: str, step: int) -> None:
    """Copies the rows up to a step into another run: those before it, and validations at it too. A probe at it is made
    once more."""

    def comes_before(row: Row) -> bool:
        return type(row.get("step")) is int and row["step"] < step + (row.get("split") == "validation")

    rows = list(filter(comes_before, read_rows(run / name)))
    with closing(JsonlWriter(new, name)) as copy:
        copy.append(rows)


def read_next_attempt(path: Path) -> int:
    """One more than the highest attempt of the rows. Raises `CheckpointError`, as `read_rows` does."""
    return 1 + max((row["attempt"] for row in read_metric_rows(path)), default=-1)


def read_newest_rows(path: Path, split: str) -> list[Row]:
    """One row for each step of `split`, sorted by step: that of the newest attempt.

    An attempt replaces what earlier attempts wrote from its first step on. Their validation at exactly that step stays:
    it was made after as many updates as the checkpoint has. For example, attempt 0 writes training rows 0 to 3 and
    validations at 2 and 4; attempt 1 resumes at step 2. What stays of attempt 0 are its rows 0 and 1 and its validation
    at 2.
    """
    kept: dict[int, Row] = {}
    attempt = 0
    for row in read_metric_rows(path):
        if row["attempt"] > attempt:
            attempt = row["attempt"]
            last = row["step"] - (split == "train")
            kept = {step: old for step, old in kept.items() if step <= last}
        if row["split"] == split:
            kept[row["step"]] = row
    return [kept[step] for step in sorted(kept)]
