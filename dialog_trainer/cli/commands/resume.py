"""mode=resume: continues a run from one of its checkpoints, bit for bit as if it had never stopped.

For example, a run of 1,000 steps was killed at step 340, and its last checkpoint holds step 300:

    1. lock the run directory; finish what the killed process left of a save; verify every file of the checkpoint against
       its manifest; a damaged one is put aside, and the newest that is whole taken
    2. read the state: 300 updates done, best results, tokens seen; its rows get the attempt 1
    3. compare digests (data, vocabulary, truncation, mask), settings, device, versions; print what keeps it from being exact
    4. save `args.yaml` (the old one stays as `args.0.yaml`)
    5. train from step 300: batch, mask, learning rate and dropout are functions of (seed, step, rank), so the updates 300
       to 339 are repeated bit for bit

`metrics.jsonl` then holds the rows 300 to 339 twice; readers take those of the newest attempt.

A resume from an older checkpoint, as the best one, does 4 and 5 in the folder of a new run: see `resume_start.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from dialog_trainer.build.data import find_final_split
from dialog_trainer.cli.commands.fit import (
    fit,
    fix_schedule_steps,
    lock_for_all_ranks,
    restore_parts,
    without_branches,
)
from dialog_trainer.cli.commands.parts import TrainingParts
from dialog_trainer.cli.commands.resume_start import ResumeStart, choose_start, take_over
from dialog_trainer.cli.saved_config import inexact_changes, list_changes
from dialog_trainer.config.job import Job
from dialog_trainer.config.schema import Config
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import ConfigError
from dialog_trainer.reporting.console import closing_lines, make_printer
from dialog_trainer.reporting.terminal import RunConsole
from dialog_trainer.signals import StopSignal
from dialog_trainer.tracking.jsonl import read_next_attempt
from dialog_trainer.tracking.run_directory import read_run_id
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.loop import TrainingState
from dialog_trainer.training.reproducibility import describe_differences
from dialog_trainer.types import Say

# The options outside the group mask_schedule that decide the mask of a step.
_MASK_OPTIONS = ("train_user_turn_mask_step", "schedule_steps")
# What decides the meaning of the best score.
_SCORE_OPTIONS = {"mask_schedule.trained_role", "metrics.best", "metrics.protocol", "metrics.tokenize", "metrics.original_clean_up",
                  "metrics.max_dialogues",
                  *(f"metrics.generation.{name}" for name in ("max_new_tokens", "decoding", "temperature", "top_p", "beams"))}  # fmt: skip


def resume_run(job: Job, console: RunConsole) -> int:
    """mode=resume: goes on exactly from a checkpoint of the run; returns the exit code."""
    run, branch_steps = job.config.saved_run, job.config.sweep.keep_at
    job = replace(job, config=without_branches(fix_schedule_steps(job.config)))
    say = make_printer(console)
    with ExitStack() as locks:
        locks.enter_context(lock_for_all_ranks(run))
        start = choose_start(run, job.config, say)
        state = _state_of(start, job, read_next_attempt(run / "metrics.jsonl"))
        outcome = _describe_end(job, state)
        if outcome:
            return _close_again(run, job, state, outcome, say)
        for line in _resume_lines(start, job, state):
            say(line)
        parts = replace(_restore_parts(start, job, state, say), branch_steps=branch_steps)
        kept = parts.config.replace({"mode": "train", "resume_model_dir": None, "load_model_type": "metric"})
        with StopSignal() as stop:
            folder, missing = collectives.broadcast_from_rank0(
                lambda: take_over(start, kept, state.attempt, parts.digest)
            )
            if start.forks:
                locks.enter_context(lock_for_all_ranks(folder))
            for name in missing:
                say(f"  weights/{name} is left behind: the next validation sets it again")
                forget = state.best.forget_score if name == "best_metric" else state.best.forget_loss
                forget(state.step)
            return fit(folder, parts, state, console, stop)


def _state_of(start: ResumeStart, job: Job, attempt: int) -> TrainingState:
    state = TrainingState.restore(start.state, attempt, BestTracker(**start.state.best.model_dump()))
    if any(key in _MASK_OPTIONS or key.startswith("mask_schedule.") for key, _, _ in job.changes):
        state.best.bad_validations = 0  # counted under another mask
    return state


def _restore_parts(start: ResumeStart, job: Job, state: TrainingState, say: Say) -> TrainingParts:
    """The parts of the checkpoint; says what keeps the resume from being exact."""
    saved = start.state
    parts = restore_parts(start.run / start.checkpoint, saved, job.config, say)
    other_data = saved.held_out != parts.validation.dialogues.digest
    for line in (
        *_reset_best(state.best, state.step, [key for key, _, _ in job.changes], other_data),
        *describe_differences(saved, parts.environment()),
    ):
        say(line)
    return parts


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
        from dialog_trainer.cli.commands.report import report_run

        try:
            draw_finished_run(folder, job.config)
        except OSError as error:
            say(f"note: the figures could not be drawn: {error}")
        report_run(folder, say)
    for line in closing_lines(folder, outcome, state.step, state.best, find_final_split(job.config)):
        say(line)
    return 0


def _resume_lines(start: ResumeStart, job: Job, state: TrainingState) -> list[str]:
    config = job.config
    number = "" if start.forks else f": resume {state.attempt} of this run"
    lines = [f"resuming {start.run / start.checkpoint} (step {state.step:,}){number}"]
    lines += [f"  {key}: {before} -> {after}" for key, before, after in job.changes]
    if inexact_changes(job.changes):
        lines.append(
            f"  with other values of {', '.join(inexact_changes(job.changes))} training goes on, but not exactly"
        )
    lines += _describe_edits(start, job)
    planned = config.planned_steps
    if config.steps > planned and not config.whole_epochs:
        lines.append(
            f"  schedules were planned over {planned:,} steps and stay at their end values after that; "
            f"schedule_steps={config.steps} stretches them"
        )
    return lines


def _describe_edits(start: ResumeStart, job: Job) -> list[str]:
    """Lines about what `args.yaml` says otherwise than the checkpoint, and nobody typed now: it was edited, or damaged."""
    saved = start.state
    run_id = read_run_id(start.run)
    lines = []
    if saved.run_id != run_id:
        lines.append(f"  note: this checkpoint is of another run (id {saved.run_id}, args.yaml has {run_id})")
    if saved.config is None:  # of version 0.2 or before
        return lines
    try:
        trained = Config.from_dict(saved.config)
    except ConfigError as error:
        return [*lines, f"  note: the settings in the checkpoint cannot be compared: {error.errors[0]}"]
    typed = {key for key, _, _ in job.changes}
    edits = [edit for edit in list_changes(trained, job.config) if edit[0] not in typed | {"project", "name"}]
    lines += [f"  {key}: {before} at the checkpoint -> {after} in args.yaml" for key, before, after in edits]
    if inexact_changes(edits):
        lines.append(
            f"  args.yaml has other values of {', '.join(inexact_changes(edits))}: training goes on, not exactly"
        )
    return lines
