"""Reads `metrics.jsonl` in one pass and in bounded memory: every validation, and a sample of the training rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dialog_trainer.tracking.jsonl import Row, parse_metric_rows, read_lines

# Training rows that are kept of a run, about.
MAX_TRAINING_ROWS = 300
# Of a file that anybody may have written.
MAX_VALIDATIONS = 20_000
MAX_ATTEMPTS = 10_000
# The beginning of a line as `MetricWriter` writes it.
_HEAD = re.compile(rb'\{"step": (\d{1,15}), "epoch": \d{1,15}, "attempt": (\d{1,15}), "split": "(\w{1,20})"')


@dataclass(frozen=True, slots=True)
class RowSummary:
    """The newest rows of a run, sorted by step: each validation, and about `MAX_TRAINING_ROWS` of training.

    `seconds`: of all attempts, each from its start to its last row.
    """

    validations: list[Row] = field(default_factory=list)
    training: list[Row] = field(default_factory=list)
    seconds: float = 0.0


def summarize_rows(path: Path, steps: int) -> RowSummary:
    """The summary of a run of `steps` updates; an empty one where the file is missing. A line whose beginning is not as
    the program writes it is passed over.

    An attempt replaces what earlier attempts wrote from its first step on, as in `read_newest_rows`.
    Raises `CheckpointError` for what is no regular file.
    """
    every = max(1, steps // MAX_TRAINING_ROWS)
    kept: dict[str, dict[int, bytes]] = {"train": {}, "validation": {}}
    last_lines: dict[int, bytes] = {}
    newest, logged = 0, -every
    for step, attempt, split, line in _read_heads(path):
        if attempt > newest:
            newest = attempt
            for name, rows in kept.items():
                last = step - (name == "train")
                kept[name] = {old: row for old, row in rows.items() if old <= last}
            logged = max(kept["train"], default=-every)
        if len(last_lines) < MAX_ATTEMPTS or attempt in last_lines:
            last_lines[attempt] = line
        if split == "validation" and len(kept[split]) < MAX_VALIDATIONS:
            kept[split][step] = line
        elif split == "train" and step >= logged + every and len(kept[split]) <= 2 * MAX_TRAINING_ROWS:
            kept[split][step] = line
            logged = step
    seconds = [row.get("time_seconds") for row in parse_metric_rows(last_lines.values())]
    return RowSummary(
        [row for _, line in sorted(kept["validation"].items()) for row in parse_metric_rows([line])],
        [row for _, line in sorted(kept["train"].items()) for row in parse_metric_rows([line])],
        sum(float(one) for one in seconds if one is not None and one >= 0),
    )


def _read_heads(path: Path) -> Iterator[tuple[int, int, str, bytes]]:
    """Step, attempt, split and line of each row, not parsed."""
    for line in read_lines(path):
        head = _HEAD.match(line)
        if head:
            yield int(head[1]), int(head[2]), head[3].decode("ascii"), line
