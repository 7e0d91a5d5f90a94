"""mode=train from a branch of another run (`sweep.fork_from`): a job of a sweep that shares its first updates with another.

The runs differ in their mask schedule alone, and its weights are equal up to the branch: so are all their updates. What keeps
the fork from being exact is said, and the run is then trained from its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dialog_trainer.cli.commands.branches import best_until, find_branch_damage, replay_best, take_branch
from dialog_trainer.cli.commands.fit import fit, lock_for_all_ranks, restore_parts
from dialog_trainer.cli.commands.parts import TrainingParts
from dialog_trainer.config.frozen import thaw
from dialog_trainer.config.job import Job
from dialog_trainer.config.machine import PER_MACHINE
from dialog_trainer.config.paths import with_absolute_data_paths
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import settings, show
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.files import list_directory
from dialog_trainer.reporting.console import make_printer
from dialog_trainer.reporting.terminal import RunConsole
from dialog_trainer.signals import StopSignal
from dialog_trainer.tracking.jsonl import read_next_attempt
from dialog_trainer.tracking.run_directory import claim_run_directory, read_run_id, write_config
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.loop import TrainingState
from dialog_trainer.training.reproducibility import describe_differences
from dialog_trainer.training.saved_state import SavedState, read_state

# Values that the root has resolved, and that hold for the fork too.
_OPEN = (None, "auto")


@dataclass(frozen=True, slots=True)
class Start:
    """The checkpoint below a branch, and what is wrong with the branch."""

    checkpoint: str
    damage: str | None


def train_fork(job: Job, branch: Path, console: RunConsole) -> int | None:
    """Trains a new run from a branch; returns the exit code, or None where it must be trained from its start."""
    say = make_printer(console)
    found = collectives.broadcast_from_rank0(lambda: find_start(branch))
    if found.damage:
        say(f"{branch} cannot be used ({found.damage}): the run is trained from its start")
        return None
    saved = read_state(branch, found.checkpoint)
    config = _adopt(Config.from_dict(saved.config or {}), job.config, branch)
    parts = restore_parts(branch / found.checkpoint, saved, config, say)
    differences = _describe_differences(saved, parts)
    if differences:
        for line in differences:
            say(line)
        say(f"so a fork of {branch} would not be exact: the run is trained from its start")
        return None
    best_at = replay_best(branch, parts.timeline.final_from_step)
    attempt = max(0, read_next_attempt(branch / "metrics.jsonl") - 1)
    state = TrainingState.restore(saved, attempt, best_until(best_at, saved.step))
    with StopSignal() as stop:
        folder = Path(
            collectives.broadcast_from_rank0(
                lambda: str(_make_folder(job, branch, saved.run_id, parts, state, best_at))
            )
        )
        with lock_for_all_ranks(folder):
            say(f"forks from {branch} at step {saved.step:,}")
            return fit(folder, parts, state, console, stop)


def find_start(branch: Path) -> Start:
    """Where a branch starts, once each of its files was compared with its manifest, and its settings are some."""
    try:
        names = [name for name, kind in list_directory(branch, "start").items() if kind == "directory"]
    except OSError as error:
        return Start("", str(error.strerror))
    if len(names) != 1:
        return Start("", "it holds no start")
    checkpoint = f"start/{names[0]}"
    damage = find_branch_damage(branch, checkpoint)
    try:
        if not damage:
            Config.from_dict(read_state(branch, checkpoint).config or {})
    except (CheckpointError, ConfigError) as error:
        damage = str(error)
    return Start(checkpoint, damage)


def _adopt(root: Config, typed: Config, branch: Path) -> Config:
    """The settings of the fork: as the root has resolved them, with the mask schedule and the place of the fork.

    Raises `ConfigError` where others differ.
    """
    tree, own = root.to_dict(), with_absolute_data_paths(typed.to_dict())
    config = Config.from_dict(
        tree | {key: own[key] for key in ("mask_schedule", "train_user_turn_mask_step", "project", "name")}
    )
    before, after = config.flat(), Config.from_dict(own).flat()
    per_command = {key for key, one in settings(Config).items() if one.meta.per_command}
    # Other threads are no error: the fork is then trained from its start.
    machine = {key: after[key] for key in ("threads", *PER_MACHINE, *per_command) if key in after}
    config = config.replace(machine)
    errors = [
        f"{key}: {show(before.get(key))} in {branch} -> {show(after.get(key))}: a fork may differ in its mask schedule alone"
        for key in {**before, **after}
        if key not in machine and before.get(key) != after.get(key) and after.get(key) not in _OPEN and key != "steps"
    ]
    if errors:
        raise ConfigError(errors)
    return config


def _describe_differences(saved: SavedState, parts: TrainingParts) -> list[str]:
    """What keeps the fork from being exact, but for the mask schedule."""
    digest = saved.digest | {name: parts.digest[name] for name in ("schedule", "whole")}
    lines = describe_differences(saved.model_copy(update={"digest": digest}), parts.environment())
    if saved.held_out != parts.validation.dialogues.digest:
        lines.append("the validation data differs from the checkpoint's")
    return lines


def _make_folder(
    job: Job,
    branch: Path,
    root_id: str | None,
    parts: TrainingParts,
    state: TrainingState,
    best_at: Mapping[int, BestTracker],
) -> Path:
    """Makes the run folder and fills it from the branch of the run `root_id`, on rank 0."""
    folder = claim_run_directory(Path(job.parent), job.name or "")
    origin = {"run": str(branch.parents[1]), "run_id": root_id, "step": state.step}
    settings_of_run = parts.config.to_dict()
    write_config(folder, settings_of_run | {"digest": parts.digest}, thaw(job.hydra_files), origin=origin)
    own = {
        "config": settings_of_run,
        "run_id": read_run_id(folder),
        "digest": parts.digest,
        "schedule_steps": parts.config.schedule_steps,
        "mask_final_from_step": parts.timeline.final_from_step,
    }
    take_branch(branch, folder, state.step, own, best_at)
    return folder
