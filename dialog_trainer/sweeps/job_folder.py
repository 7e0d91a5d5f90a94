"""The run folder of a job, as the sweep finds it: how far it has come, and whether it can go on."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import make_directory, read_bounded, rename
from dialog_trainer.tracking.jsonl import read_rows_after
from dialog_trainer.tracking.run_directory import MAX_CONFIG_BYTES, lock_run_directory
from dialog_trainer.training.checkpoint_directory import list_newest_first, locate
from dialog_trainer.training.saved_state import read_state

# For a job that a killed sweep has left: it stops at the end of a step, with a checkpoint.
LEFT_BEHIND_SECONDS = 120.0
_POLL_SECONDS = 0.2
_FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Position:
    """That of a run at its last checkpoint. `ended`: it has made all its `steps`."""

    steps_done: int
    steps: int
    tokens: int
    ended: bool


def read_position(run: Path) -> Position | None:
    """None where the run has no checkpoint that can be read."""
    try:
        checkpoint = locate(run, "last")
        if checkpoint is None:
            return None
        state = read_state(run, checkpoint)
    except CheckpointError:
        return None
    steps = (state.config or {}).get("steps")
    steps = steps if isinstance(steps, int) else state.step
    return Position(state.step, steps, state.tokens_seen, state.step >= steps)


def can_resume(run: Path) -> bool:
    """Whether there is a checkpoint of any kind; a resume finds out which is whole."""
    try:
        return bool(list_newest_first(run))
    except CheckpointError:
        return False


def wait_until_left(run: Path) -> None:
    """Returns once no other process trains the run. Raises `CheckpointError` where one does not stop."""
    end = time.monotonic() + LEFT_BEHIND_SECONDS
    while True:
        try:
            with lock_run_directory(run):
                return
        except CheckpointError:
            if time.monotonic() >= end:
                raise
            time.sleep(_POLL_SECONDS)


def put_aside(sweep: Path, name: str, attempt: int) -> str:
    """Moves the folder of a job, which cannot go on, to `failed/`; returns where it is."""
    make_directory(sweep, _FAILED)
    place = f"{_FAILED}/{name}-{attempt}"
    while os.path.lexists(sweep / place):
        place += "x"
    rename(sweep, name, place)
    return place


def digest_config(run: Path) -> str | None:
    """sha256 of its `args.yaml`; None where there is none."""
    try:
        return hashlib.sha256(read_bounded(run, "args.yaml", MAX_CONFIG_BYTES)).hexdigest()
    except OSError:
        return None


class StepCounter:
    """The updates that a run has made, from the new rows of its `metrics.jsonl` at each call."""

    def __init__(self, run: Path, steps_done: int):
        self._path, self._offset, self._done = run / "metrics.jsonl", 0, steps_done

    def count(self) -> int:
        try:
            rows, self._offset = read_rows_after(self._path, self._offset)
        except (OSError, CheckpointError):  # not there yet
            return self._done
        for row in rows:
            if row.get("split") == "train" and type(row.get("step")) is int:
                self._done = row["step"] + 1
        return self._done
