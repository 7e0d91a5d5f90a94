"""Finds the run folders of `runs`: of a sweep, of a folder of runs, or one run. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import list_directory
from dialog_trainer.sweeps.record import SWEEP_FILE, JobRecord
from dialog_trainer.sweeps.submitted import read_current

MAX_RUNS = 10_000
_NUMBER = re.compile(r"(\d+)")


def find_runs(place: Path) -> Iterator[tuple[Path, JobRecord | None]]:
    """The run folders of a place, in order, each with its job in `sweep.json` where there is one; those of a sweep whether
    they exist or not. Raises `CheckpointError` where there is none."""
    entries = list_directory(place, ".")
    if SWEEP_FILE in entries:
        for job in read_current(place).jobs:
            yield place / job.name, job
        return
    if "args.yaml" in entries:
        yield place, None
        return
    inside = [
        name for name, kind in entries.items() if kind == "directory" and os.path.exists(place / name / "args.yaml")
    ]
    if not inside:
        raise CheckpointError(
            f"runs={place}: holds no run (no folder with args.yaml); pass the folder of a sweep or of runs"
        )
    if len(inside) > MAX_RUNS:
        raise CheckpointError(f"runs={place}: {len(inside):,} runs; a report is on at most {MAX_RUNS:,}")
    for name in sorted(
        inside, key=lambda name: [int(part) if part.isdecimal() else part for part in _NUMBER.split(name)]
    ):
        yield place / name, None
