"""Branches of a run: what others need to start where they first differ from it, and those that start so.

    <run>/branches/step-00000250/
      start/step-00000250/     weights, optimizer and position after 250 updates
      weights/                 the checkpoints that the run had then
      metrics.jsonl replies.jsonl base/ crash/
      manifest.json            bytes and sha256 of all of these

A run that starts from a branch gets copies of all but the first, and its folder is that of a run of its own from the start, but
for times and `origin`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError

from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import (
    atomic_directory,
    copy_directory,
    list_directory,
    make_directory,
    read_bounded,
    write_atomically,
)
from dialog_trainer.screen import write_line
from dialog_trainer.sweeps.forks import BRANCHES, branch_name
from dialog_trainer.tracking.jsonl import copy_rows, read_newest_rows
from dialog_trainer.training.checkpoint import (
    BASE,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    compare_with_manifest,
    find_damage,
    write_checkpoint,
    write_manifest,
)
from dialog_trainer.training.checkpoint_directory import KINDS, list_steps, list_weights, step_name
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.saved_state import MAX_STATE_BYTES, STATE_FILE, read_state

_ROWS = ("metrics.jsonl", "replies.jsonl")
_COPIED = (BASE, "crash")


def start_of(step: int) -> str:
    """The checkpoint below a branch that others start from."""
    return f"start/{step_name(step)}"


def keep_branch(run: Path, *, state: Mapping[str, Any], **content: Any) -> None:
    """Writes the branch of a run at the step of `state`; `content` is that of `write_checkpoint`.

    Where the disk takes no more it says so: the runs that were to fork are then trained from their start.
    """
    step = state["step"]
    try:
        make_directory(run, BRANCHES)
        if PurePath(branch_name(step)).name in list_directory(run, BRANCHES):
            return  # of an attempt that was stopped later: it is equal, and another run may be reading it
        with atomic_directory(run, branch_name(step)) as branch:
            make_directory(branch, start_of(step))
            write_checkpoint(branch / start_of(step), state=state, **content)
            _copy_checkpoints(run, branch)
            _copy_others(run, branch, step)
            write_manifest(branch)
    except (OSError, SafetensorError) as error:
        write_line(f"note: no branch is kept at step {step:,}, from which others were to fork: {error}", sys.stderr)


def take_branch(
    branch: Path, run: Path, step: int, state: Mapping[str, Any], best_at: Mapping[int, BestTracker]
) -> None:
    """Fills the folder of a new run with what a run of its own would have left there before update `step`.

    `state` has the fields of the saved states that are its own; `best_at` gives the best results at a step. The checkpoints
    come last and at once: a run that is killed before has none, and is not taken for one that can go on.
    """
    _copy_others(branch, run, step)
    checkpoints = _list_checkpoints(branch)
    if checkpoints:
        with atomic_directory(run, "weights") as weights:
            for name in (PurePath(checkpoint).name for checkpoint in checkpoints):
                copy_directory(branch / "weights" / name, weights, name)
                _readdress(weights, name, state, best_at)


def find_branch_damage(branch: Path, start: str) -> str | None:
    """What is wrong with a branch, whose first checkpoint is `start`; None if every byte is as it was written."""
    return find_damage(branch, start) or compare_with_manifest(branch, ".")


def replay_best(branch: Path, counts_after: int) -> dict[int, BestTracker]:
    """Step of each validation -> the best results after it, in a run whose validations count after a step.

    Two runs with equal weights may differ in that: it depends on the mask that each still has to come. Raises
    `CheckpointError` for a validation without its loss or its score.
    """
    tracker, found = BestTracker(), {}
    for row in read_newest_rows(branch / "metrics.jsonl", "validation"):
        step, loss, score = (row.get(key) for key in ("step", "validation_loss", "best_metric_score"))
        if step is None or loss is None or score is None:
            raise CheckpointError(
                f"{branch / 'metrics.jsonl'}: the validation at step {step} lacks its loss or its score"
            )
        tracker.update(step, loss, score, counts=step > counts_after)
        found[step] = replace(tracker)
    return found


def best_until(best_at: Mapping[int, BestTracker], step: int) -> BestTracker:
    """The best results after the validations up to a step."""
    before = [one for one in best_at if one <= step]
    return replace(best_at[max(before)]) if before else BestTracker()


def _list_checkpoints(run: Path) -> list[str]:
    views = [f"weights/{name}" for name in KINDS.values() if list_weights(run).get(name) == "directory"]
    return [*(one.path for one in list_steps(run)), *views]


def _copy_checkpoints(run: Path, new: Path) -> None:
    checkpoints = _list_checkpoints(run)
    if checkpoints:
        make_directory(new, "weights")
    for checkpoint in checkpoints:
        copy_directory(run / checkpoint, new, checkpoint)


def _copy_others(run: Path, new: Path, step: int) -> None:
    for name in _ROWS:
        copy_rows(run, new, name, step)
    there = list_directory(run, ".")
    for name in _COPIED:
        if there.get(name) == "directory":
            copy_directory(run / name, new, name)


def _readdress(run: Path, checkpoint: str, state: Mapping[str, Any], best_at: Mapping[int, BestTracker]) -> None:
    """Makes a copied checkpoint one of this run. Its files are links, so that each changed one is replaced."""
    step = read_state(run, checkpoint).step
    saved = json.loads(read_bounded(run, f"{checkpoint}/{STATE_FILE}", MAX_STATE_BYTES))
    saved |= {**state, "best": asdict(best_until(best_at, step))}
    content = json.dumps(saved, indent=2).encode("utf-8")
    try:
        manifest = Manifest.model_validate_json(read_bounded(run, f"{checkpoint}/{MANIFEST}", MAX_MANIFEST_BYTES))
    except ValidationError:
        raise CheckpointError(f"{run / checkpoint / MANIFEST} is no manifest") from None
    files = manifest.files | {STATE_FILE: (len(content), hashlib.sha256(content).hexdigest())}
    write_atomically(run, f"{checkpoint}/{STATE_FILE}", content)
    write_atomically(
        run, f"{checkpoint}/{MANIFEST}", manifest.model_copy(update={"files": files}).model_dump_json(indent=2)
    )
