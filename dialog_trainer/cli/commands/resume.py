"""mode=resume: continues a run from one of its checkpoints, in its own directory, bit for bit as if it had never stopped.

For example, a run of 1,000 steps was killed at step 340, and `weights/last` holds step 300:

    1. lock the run directory; verify every file of the checkpoint against its manifest
    2. read the state: 300 updates done, best results, tokens seen; this is attempt 1
    3. compare digests (data, vocabulary, truncation, mask), device, versions; print what keeps the resume from being exact
    4. save `args.yaml` (the old one stays as `args.0.yaml`); a best link to a step after 300 points to step 300 from now on
    5. train from step 300: batch, mask, learning rate and dropout are functions of (seed, step, rank), so the updates 300
       to 339 are repeated bit for bit

`metrics.jsonl` then holds the rows 300 to 339 twice; readers take those of the newest attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dialog_trainer.build.data import load_dialogues
from dialog_trainer.build.model import load_saved_model
from dialog_trainer.cli.commands.callbacks import TrainingParts
from dialog_trainer.cli.commands.fit import (
    begin_training,
    build_parts,
    final_split,
    fit,
    fix_schedule_steps,
    lock_for_all_ranks,
)
from dialog_trainer.cli.saved_config import inexact_changes
from dialog_trainer.config.job import Job
from dialog_trainer.config.schema import Config
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.reporting.console import closing_lines, make_printer
from dialog_trainer.reporting.terminal import RunConsole
from dialog_trainer.signals import StopSignal
from dialog_trainer.tracking.jsonl import read_next_attempt
from dialog_trainer.tracking.run_directory import replace_config
from dialog_trainer.training.checkpoint import LINKS, drop_later_best, find_checkpoint, load_optimizer, read_state
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.loop import TrainingState
from dialog_trainer.training.reproducibility import describe_differences
from dialog_trainer.types import Say

# The options outside the group mask_schedule that decide the mask of a step.
_MASK_OPTIONS = ("train_user_turn_mask_step", "schedule_steps")
# What decides the meaning of the best score.
_SCORE_OPTIONS = {"mask_schedule.trained_role", "metrics.best", "metrics.protocol", "metrics.max_dialogues",
                  *(f"metrics.generation.{name}" for name in ("max_new_tokens", "decoding", "temperature", "top_p", "beams"))}  # fmt: skip


def resume_run(job: Job, console: RunConsole) -> int:
    """mode=resume: goes on exactly from a checkpoint of the run, in its folder; returns the exit code."""
    folder = Path(job.config.resume_model_dir or "")
    with lock_for_all_ranks(folder):
        return _resume_locked(folder, replace(job, config=fix_schedule_steps(job.config)), console)


def _resume_locked(folder: Path, job: Job, console: RunConsole) -> int:
    say, config = make_printer(console), job.config
    weights = find_checkpoint(folder, config.load_model_type)
    saved = read_state(weights)
    state = _state_of(saved, weights, read_next_attempt(folder / "metrics.jsonl"))
    if any(key in _MASK_OPTIONS or key.startswith("mask_schedule.") for key, _, _ in job.changes):
        state.best.bad_validations = 0  # counted under another mask
    outcome = _describe_end(job, state)
    if outcome:
        return _close_again(folder, job, state, outcome, say)
    for line in _resume_lines(folder, weights, job, state):
        say(line)
    device = begin_training(config, say)
    model, tokenizer = load_saved_model(weights, config, device, say)
    with collectives.local_rank0_first():
        training = load_dialogues(config, "train", say)
        validation = load_dialogues(config, "validation", say)
    other_data = saved["held_out"] != validation.digest
    for line in _reset_best(state.best, state.step, [key for key, _, _ in job.changes], other_data):
        say(line)
    parts = build_parts(config, device, tokenizer, model, training, validation, say)
    load_optimizer(weights, model, parts.optimizer)
    parts.scaler.load_state_dict(saved.get("loss_scale") or parts.scaler.state_dict())
    for line in describe_differences(saved, parts.environment()):
        say(line)
    kept = parts.config.replace({"mode": "train", "resume_model_dir": None, "load_model_type": "metric"})
    with StopSignal() as stop:
        for link, step in collectives.broadcast_from_rank0(
            lambda: _take_over(folder, weights, kept, parts, state)
        ).items():
            say(f"  weights/{link} was at step {step:,}, which is left behind: the next validation sets it again")
            if link == "best_metric":
                state.best.forget_score(state.step)
            else:
                state.best.forget_loss(state.step)
        return fit(folder, parts, state, console, stop)


def _take_over(
    folder: Path, weights: Path, config: Config, parts: TrainingParts, state: TrainingState
) -> dict[str, int]:
    """Takes over the run folder for this attempt; returns each best link that pointed to a later step, and that step."""
    replace_config(folder, config.to_dict() | {"digest": parts.digest}, state.attempt)
    return drop_later_best(folder / "weights", weights, state.step)


def _state_of(saved: dict[str, Any], weights: Path, attempt: int) -> TrainingState:
    keys = ("step", "validated_step", "tokens_seen", "user_tokens_seen", "assistant_tokens_seen")
    missing = [key for key in (*keys, "best", "digest", "held_out") if key not in saved]
    if missing:
        raise CheckpointError(
            f"{weights / 'trainer' / 'state.json'} has no {', '.join(missing)}: another version wrote it; to start a new run "
            f"from its weights, pass mode=train, the options of that run, and model.pretrained_model={weights}"
        )
    return TrainingState(**{key: saved[key] for key in keys}, attempt=attempt, best=BestTracker(**saved["best"]))


def _reset_best(best: BestTracker, step: int, changed: Sequence[str], other_data: bool) -> list[str]:
    """Forgets a best score or loss that means something else by now, and says so."""
    lines = []
    if best.score is not None and (other_data or any(key in _SCORE_OPTIONS for key in changed)):
        best.forget_score(step)
        why = "on other data" if other_data else "by another score"
        lines.append(f"  best_metric was chosen {why}: the next validation sets it again")
    if best.loss is not None and (other_data or "mask_schedule.trained_role" in changed):
        best.forget_loss(step)
        why = "on other data" if other_data else "by the loss of another role"
        lines.append(f"  best_loss was chosen {why}: the next validation sets it again")
    return lines


def _describe_end(job: Job, state: TrainingState) -> str | None:
    """How the run ended, where its checkpoint has nothing left to do; None where training goes on.

    Raises `ConfigError` where the typed options ask for more, but not for enough.
    """
    config, typed = job.config, {key for key, _, _ in job.changes}
    if state.step > config.steps:
        raise ConfigError(
            [f"steps={config.steps}: this checkpoint has {state.step:,} updates already; pass a larger steps"]
        )
    if state.step == config.steps and state.validated_step == state.step:
        return "finished"
    bad = state.best.bad_validations
    if not config.patience or bad < config.patience:
        return None
    if typed & {"steps", "patience"}:
        raise ConfigError(
            [
                f"patience={config.patience}: this checkpoint stopped early, after {bad} validations without a "
                "better one; pass a larger patience, or patience=0"
            ]
        )
    return "stopped early"


def _close_again(folder: Path, job: Job, state: TrainingState, outcome: str, say: Say) -> int:
    """Draws the figures and prints the summary of a run that was stopped or killed after its last save; returns 0, so
    that a script that resumes until the exit code is 0 ends."""
    say(f"{folder} has {outcome} already, at step {state.step:,}: nothing to do; a larger steps or patience goes on")
    if collectives.is_rank0() and job.config.figures.enabled:
        from dialog_trainer.cli.commands.figures import draw_finished_run  # imports matplotlib

        try:
            draw_finished_run(folder, job.config)
        except OSError as error:
            say(f"note: the figures could not be drawn: {error}")
    for line in closing_lines(folder, outcome, state.step, state.best, final_split(job.config)):
        say(line)
    return 0


def _resume_lines(folder: Path, weights: Path, job: Job, state: TrainingState) -> list[str]:
    config = job.config
    link = LINKS[config.load_model_type]
    lines = [f"resuming {folder} from weights/{link} (step {state.step:,}) as attempt {state.attempt}"]
    last = folder / "weights" / "last"
    if last.exists() and last.resolve() != weights:
        lines.append(f"  weights/last is at step {_step_of(last)}: load_model_type=last goes on from there")
    lines += [f"  {key}: {before} -> {after}" for key, before, after in job.changes]
    if inexact_changes(job.changes):
        lines.append(
            f"  with other values of {', '.join(inexact_changes(job.changes))} training goes on, but not exactly"
        )
    planned = config.planned_steps
    if config.steps > planned:
        lines.append(
            f"  schedules were planned over {planned:,} steps and stay at their end values after that; "
            f"schedule_steps={config.steps} stretches them"
        )
    return lines


def _step_of(folder: Path) -> str:
    try:
        return f"{read_state(folder)['step']:,}"
    except (OSError, ValueError, KeyError, TypeError):  # it is not the checkpoint that was asked for, nor verified
        return "(unreadable)"
