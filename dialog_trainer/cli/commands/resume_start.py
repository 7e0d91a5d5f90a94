"""Where a resume starts: from which checkpoint, and in which folder.

From the newest checkpoint it goes on in the folder of the run. From an older one, as the best, it makes a new run,
`<name>-from-<step>`, and leaves the run as it is; `resume.in_place=true` goes on in the old folder and removes what came
after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialog_trainer.config.schema import Config
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import remove_directory
from dialog_trainer.tracking.jsonl import copy_rows
from dialog_trainer.tracking.run_directory import claim_run_directory, read_run_id, replace_config, write_config
from dialog_trainer.training.checkpoint_directory import KINDS, find_checkpoint, locate
from dialog_trainer.training.checkpoint_publishing import forget_later, fork_checkpoints, repair
from dialog_trainer.training.saved_state import SavedState, read_state
from dialog_trainer.types import Say


@dataclass(frozen=True, slots=True)
class ResumeStart:
    """`checkpoint`: a whole directory below `run`. `forks`: whether training goes on in a new run."""

    run: Path
    checkpoint: str
    state: SavedState
    forks: bool


def choose_start(run: Path, config: Config, say: Say) -> ResumeStart:
    """Finds and verifies the checkpoint, on rank 0; the others take it over. Raises `CheckpointError`."""
    checkpoint, forks, lines = collectives.broadcast_from_rank0(lambda: _find(run, config))
    for line in lines:
        say(line)
    return ResumeStart(run, checkpoint, read_state(run, checkpoint), forks)


def _find(run: Path, config: Config) -> tuple[str, bool, list[str]]:
    kind = config.load_model_type
    if kind == "last":
        checkpoint, lines = repair(run)
        if lines:
            step = read_state(run, checkpoint).step
            lines.append(f"  {run / checkpoint} (step {step:,}) is the newest that is whole: later steps are repeated")
        return checkpoint, False, lines
    checkpoint = find_checkpoint(run, kind)
    step, newest = read_state(run, checkpoint).step, _newest_step(run)
    if newest is None or newest <= step:
        return checkpoint, False, []
    where = f"resuming from {KINDS[kind]}, step {step:,}; weights/last is at step {newest:,}"
    if config.resume.in_place:
        return checkpoint, False, [f"{where}, and is removed (resume.in_place=true)"]
    line = f"{where}: this makes a new run and leaves {run} as it is; load_model_type=last goes on from there"
    return checkpoint, True, [line]


def _newest_step(run: Path) -> int | None:
    last = locate(run, "last")
    try:
        return read_state(run, last).step if last else None
    except CheckpointError:  # damaged: it was not asked for
        return None


def take_over(start: ResumeStart, config: Config, attempt: int, digest: Mapping[str, str]) -> tuple[Path, list[str]]:
    """Prepares the folder in which the resumed run trains, on rank 0.

    Returns it, and the best checkpoints that the next validation sets again.
    """
    run, state = start.run, start.state
    if not start.forks:
        missing = forget_later(run, state)
        replace_config(run, _settings(config, digest), attempt)
        return run, missing
    folder = claim_run_directory(run.parent, f"{run.name}-from-{state.step}")
    try:
        config = config.replace({"project": str(folder.parent), "name": folder.name})
        origin = {"run": str(run), "run_id": read_run_id(run), "step": state.step}
        write_config(folder, _settings(config, digest), {}, origin=origin)
        for rows in ("metrics.jsonl", "replies.jsonl"):
            copy_rows(run, folder, rows, state.step)
        return folder, fork_checkpoints(run, start.checkpoint, folder)
    except BaseException:
        remove_directory(run.parent, folder.name)
        raise


def _settings(config: Config, digest: Mapping[str, str]) -> dict[str, Any]:
    return config.to_dict() | {"digest": dict(digest)}
