"""Publishes, renews and removes the checkpoints of a run; for the process that trains it."""

from __future__ import annotations

import fcntl
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dialog_trainer.errors import CheckpointError, TrainingError
from dialog_trainer.files import (
    atomic_directory,
    copy_directory,
    is_disk_full,
    list_directory,
    make_directory,
    remove_directory,
    rename,
)
from dialog_trainer.training.checkpoint import BASE, find_damage, write_checkpoint
from dialog_trainer.training.checkpoint_directory import (
    BEST,
    KINDS,
    find_step,
    list_newest_first,
    list_steps,
    list_weights,
    locate_view,
    lock_directory,
    step_name,
    step_of_view,
)
from dialog_trainer.training.saved_state import SavedState, read_state

# Made here, and left by a killed process; the links are those of earlier versions.
_LEFTOVER = re.compile(r"\.(aside|gone)-.*|\.(last|best_metric|best_loss)-\d+")


def save_checkpoint(run: Path, *, state: Mapping[str, Any], keep: int, **content: Any) -> None:
    """Publishes a checkpoint. `content` is that of `write_checkpoint`; `keep`: step directories to keep.

    Raises `TrainingError` where it cannot be written; the earlier checkpoints then stay as they were.
    """
    try:
        make_directory(run, "weights")
        _sweep(run)
        count = max((one.count for one in list_steps(run) if one.step == state["step"]), default=0) + 1
        name = f"weights/{step_name(state['step'], count)}"
        with atomic_directory(run, name) as directory:
            write_checkpoint(directory, state=state, **content)
        _renew(run, read_state(run, name))
        _remove_old(run, keep)
    except Exception as error:  # tokenizers has no class of its own for a full disk
        if not (isinstance(error, OSError | SafetensorError) or is_disk_full(error)):
            raise
        _sweep(run)
        free = shutil.disk_usage(run).free / 2**20
        raise TrainingError(
            f"the checkpoint of step {state['step']} could not be written to {run / 'weights'}: {error} ({free:,.0f} MiB "
            "free). The earlier checkpoints are untouched: make room, then mode=resume load_model_type=last"
        ) from None


def repair(run: Path) -> tuple[str, list[str]]:
    """Puts the checkpoints in order, for the process that holds the lock of the run; returns the newest whole one.

    Finishes what a killed process left of a save, and makes directories of the links of earlier versions. Damaged
    checkpoints that are newer than the one returned are put aside: the lines say so. Raises `CheckpointError` where none
    is whole.
    """
    _sweep(run)
    _replace_links(run)
    lines: list[str] = []
    for found in list_newest_first(run):
        damage = find_damage(run, found)
        if damage:
            lines.append(f"  {run / found} is damaged ({damage}): moved to {_put_aside(run, found)}")
            continue
        state = read_state(run, found)
        if not any(one.step == state.step for one in list_steps(run)):  # the copy of a run, or a best one
            copy_directory(run / found, run, f"weights/{step_name(state.step)}")
        _renew(run, state)
        return found, lines
    raise CheckpointError("\n".join([*lines, f"{run} has no whole checkpoint: start the run again"]))


def _replace_links(run: Path) -> None:
    kinds = list_weights(run)
    linked = {name: locate_view(run, name) for name in KINDS.values() if kinds.get(name) == "link"}
    for one in list_steps(run) if linked.get("last") else ():
        if one.path not in linked.values():  # of a save that was killed, or left behind
            _remove(run, one.path)
    for name, target in linked.items():
        if target:
            copy_directory(run / target, run, f"weights/{name}")


def _put_aside(run: Path, checkpoint: str) -> Path:
    aside = f"weights/damaged/{Path(checkpoint).name}-{secrets.token_hex(4)}"
    make_directory(run, "weights/damaged")
    rename(run, checkpoint, aside)
    return run / aside


def forget_later(run: Path, state: SavedState) -> list[str]:
    """Removes the checkpoints after the one of `state`; returns the best ones that are lost with them.

    In their place the checkpoint of `state` is kept, until the next validation sets them again.
    """
    source = find_step(run, state.step)
    if source is None:
        raise CheckpointError(f"{run} has no checkpoint of step {state.step:,} any more")
    if not any(one.step == state.step for one in list_steps(run)):
        copy_directory(run / source, run, f"weights/{step_name(state.step)}")
    for one in list_steps(run):
        if one.step > state.step:
            _remove(run, one.path)
    lost = []
    for name in BEST:
        step = step_of_view(run, name)
        if step is not None and step > state.step:
            kept = find_step(run, state.kept.get(name))
            copy_directory(run / (kept or source), run, f"weights/{name}")
            if kept is None:
                lost.append(name)
    _renew(run, state)
    return lost


def fork_checkpoints(run: Path, checkpoint: str, new: Path) -> list[str]:
    """Gives the folder of a new run a checkpoint of another run, and the best ones that its state names.

    Returns the best ones that are not there any more, which the next validation sets again.
    """
    state = read_state(run, checkpoint)
    make_directory(new, "weights")
    if list_directory(run, ".").get(BASE) == "directory":
        copy_directory(run / BASE, new, BASE)
    copy_directory(run / checkpoint, new, f"weights/{step_name(state.step)}")
    missing = []
    for name in BEST:
        step = state.kept.get(name)
        source = find_step(run, step)
        if source and not find_damage(run, source):
            copy_directory(run / source, new, f"weights/{name}")
        elif step is not None:
            copy_directory(run / checkpoint, new, f"weights/{name}")
            missing.append(name)
    _renew(new, state)
    return missing


def _renew(run: Path, state: SavedState) -> None:
    """Makes the best ones and `last` what `state`, that of the newest checkpoint, says; a reader's one waits."""
    for name, step in {**{name: state.kept.get(name) for name in BEST}, "last": state.step}.items():
        source = next((one.path for one in reversed(list_steps(run)) if one.step == step), None)
        if source and (name == "last" or step_of_view(run, name) != step):
            with lock_directory(run / "weights" / name, fcntl.LOCK_EX) as held:
                if held:
                    copy_directory(run / source, run, f"weights/{name}")
    _sweep(run)


def _remove_old(run: Path, keep: int) -> None:
    """Removes all but the newest `keep` step directories; what cannot be removed now is tried again at the next save."""
    steps = list_steps(run)
    kept = read_state(run, steps[-1].path).kept
    needed = {step for name, step in kept.items() if step_of_view(run, name) != step}
    for one in steps[:-keep]:
        if one.step not in needed:
            with lock_directory(run / one.path, fcntl.LOCK_EX) as held:
                if held:
                    _remove(run, one.path)
    _sweep(run)


def _remove(run: Path, path: str) -> None:
    # Renamed first: a directory that is removed in part must not look like a checkpoint.
    rename(run, path, f"weights/.gone-{secrets.token_hex(8)}")
    _sweep(run)


def _sweep(run: Path) -> None:
    for name in list_weights(run):
        if _LEFTOVER.fullmatch(name):
            remove_directory(run, f"weights/{name}")
