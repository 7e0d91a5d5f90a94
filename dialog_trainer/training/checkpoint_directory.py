"""`weights/` of a run: where its checkpoints lie, how one is published, found, kept and removed.

    weights/
      step-00000300/  step-00000200/     the newest checkpoints, `keep_checkpoints` of them
      last/  best_metric/  best_loss/    each a whole checkpoint too (hard links to the same files, or copies)
      damaged/                           what a resume found damaged and put aside

There are only directories and regular files, so any copy of a run is a run. How a save at step 300 goes, when the validation
at step 300 had the lowest loss:

    1. write    .aside-4711-...    all files, then the manifest with their hashes; fsync each
    2. rename   .aside-4711-... -> step-00000300    atomic: a directory of that name is whole
    3. renew    best_loss, then last, as copies of step-00000300, each made whole and renamed
    4. remove   all but the newest `keep_checkpoints` of step-*

The newest `step-*` is the last checkpoint, whatever `last` holds; its state says at which steps the best ones were made. A
process killed anywhere in 1 to 4 leaves a whole newest `step-*`, and `repair` finishes what is missing of 3 and 4. Runs of
version 0.2 and before have links in place of `last` and the best ones; `repair` turns them into directories.

This module finds and reads; `checkpoint_publishing.py` writes, for the process that holds the lock of the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import list_directory
from dialog_trainer.training.saved_state import read_state

KINDS = {"last": "last", "metric": "best_metric", "loss": "best_loss"}
BEST = ("best_metric", "best_loss")
_STEP = re.compile(r"step-(\d{8,19})(?:-(\d{1,4}))?")
# Of a reader, while the run publishes one checkpoint after another.
READ_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True, order=True)
class StepDirectory:
    """A directory `step-<step>`, or `step-<step>-<count>` where the step was saved more than once."""

    step: int
    count: int
    name: str

    @property
    def path(self) -> str:
        return f"weights/{self.name}"


def find_checkpoint(run: Path, load_model_type: str) -> str:
    """The directory of a whole checkpoint, below the run: `last`, `metric` (best) or `loss` (best). Raises `CheckpointError`.

    Each file is read and compared with the manifest.
    """
    return _verify(run, load_model_type, locate(run, KINDS[load_model_type]))


@contextlib.contextmanager
def hold_checkpoint(run: Path, load_model_type: str) -> Iterator[str]:
    """As `find_checkpoint`, of a run that may be training: within the block its process leaves the directory alone."""
    with contextlib.ExitStack() as stack:
        for _ in range(READ_ATTEMPTS):  # the newest may be replaced before it is locked
            found = locate(run, KINDS[load_model_type])
            if found is None or stack.enter_context(lock_directory(run / found, fcntl.LOCK_SH)):
                break
        yield _verify(run, load_model_type, found)


def _verify(run: Path, load_model_type: str, found: str | None) -> str:
    from dialog_trainer.training.checkpoint import find_damage  # imports torch, which the others here do not need

    if found is None:
        there = next((kind for kind, name in KINDS.items() if locate(run, name)), None)
        remedy = f"pass load_model_type={there}" if there else "the run saved none: start it again"
        raise CheckpointError(f"{run} has no checkpoint {KINDS[load_model_type]!r}; {remedy}")
    damage = find_damage(run, found)
    if damage:
        others = (kind for kind, name in KINDS.items() if (other := locate(run, name)) and not find_damage(run, other))
        whole = next(others, None)
        remedy = f"pass load_model_type={whole}, which is whole" if whole else "no whole checkpoint is left"
        raise CheckpointError(
            f"the checkpoint {KINDS[load_model_type]!r} of {run} is damaged and cannot be used: {damage}; {remedy}"
        )
    return found


def locate(run: Path, name: str) -> str | None:
    """Where `last`, `best_metric` or `best_loss` lies, below the run; the newest `step-*` says which is which."""
    steps, view = list_steps(run), locate_view(run, name)
    if name == "last":
        linked = list_weights(run).get(name) == "link"  # of an earlier version, where the link decides
        return view if linked or not steps else steps[-1].path
    with contextlib.suppress(CheckpointError):
        kept = read_state(run, steps[-1].path).kept.get(name) if steps else None
        return next((one.path for one in reversed(steps) if one.step == kept), view)
    return view


def locate_view(run: Path, name: str) -> str | None:
    """The directory `weights/<name>`, or the `step-*` next to it that a link of an earlier version names."""
    kind = list_weights(run).get(name)
    if kind == "link":
        target = os.readlink(run / "weights" / name)
        return next((one.path for one in list_steps(run) if one.name == target), None)
    return f"weights/{name}" if kind == "directory" else None


def list_steps(run: Path) -> list[StepDirectory]:
    """The `step-*` directories, the newest last."""
    matches = ((_STEP.fullmatch(name), kind) for name, kind in list_weights(run).items())
    return sorted(StepDirectory(int(m[1]), int(m[2] or 1), m[0]) for m, kind in matches if m and kind == "directory")


def list_newest_first(run: Path) -> list[str]:
    """All checkpoints, by the step of their name or state; of one step a `step-*` comes first."""
    views = {name: step for name in KINDS.values() if (step := step_of_view(run, name)) is not None}
    found = {one.path: (one.step, 1, one.count) for one in list_steps(run)}
    found |= {f"weights/{name}": (step, 0, 0) for name, step in views.items()}
    return sorted(found, key=found.__getitem__, reverse=True)


def find_step(run: Path, step: int | None) -> str | None:
    """A checkpoint of a step, wherever it lies."""
    views = (f"weights/{name}" for name in (*BEST, "last") if step is not None and step_of_view(run, name) == step)
    return next((one.path for one in reversed(list_steps(run)) if one.step == step), next(views, None))


def step_of_view(run: Path, name: str) -> int | None:
    view = locate_view(run, name)
    try:
        return read_state(run, view).step if view else None
    except CheckpointError:  # damaged: found where it is looked for by name
        return None


def list_weights(run: Path) -> dict[str, str]:
    """What lies in `weights/`, as `list_directory`. Raises `CheckpointError` where that is a link or no directory."""
    try:
        return list_directory(run, "weights")
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or run / 'weights'}: {error.strerror}; put the directory itself in its place"
        ) from None


@contextlib.contextmanager
def lock_directory(directory: Path, how: int) -> Iterator[bool]:
    """Whether a checkpoint could be locked: to be read (LOCK_SH), or to be replaced (LOCK_EX).

    A missing one cannot be read, but replaced. On a file system without locks each attempt succeeds.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield how == fcntl.LOCK_EX
        return
    try:
        yield _try_lock(descriptor, how) and _is_at(descriptor, directory)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def _is_at(descriptor: int, directory: Path) -> bool:
    """Whether the open directory still has its name: it may have been replaced before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(directory, follow_symlinks=False))
    except OSError:
        return False


def step_name(step: int, count: int = 1) -> str:
    return f"step-{step:08d}" + (f"-{count}" if count > 1 else "")
