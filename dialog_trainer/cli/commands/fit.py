"""mode=train and mode=resume: from a configuration to a trained run folder."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from dialog_trainer.build.data import find_final_split, load_dialogues, report_contamination, tokenize_split
from dialog_trainer.build.evaluation import resolve_word_tokenizer
from dialog_trainer.build.instantiate import instantiate
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.mask_check import check_split_mask, digest_mask, summarize_held_out, summarize_training
from dialog_trainer.build.model import digest_weights, load_saved_model
from dialog_trainer.build.optimization import build_optimizer, plan_training, resolve_learning_rate
from dialog_trainer.build.precision import resolve_precision
from dialog_trainer.build.runtime import (
    build_autocast,
    build_grad_scaler,
    configure_torch,
    describe_device,
    parallelize_loss,
    resolve_compile,
    resolve_micro_batch_tokens,
    select_device,
    warm_up_compile,
)
from dialog_trainer.cli.commands.callbacks import TrainingCallbacks
from dialog_trainer.cli.commands.parts import TrainingParts, validation_interval
from dialog_trainer.config.machine import launch_options
from dialog_trainer.config.schema import Config
from dialog_trainer.config.validation import collect_notes
from dialog_trainer.data.dataset import DialogueDataset
from dialog_trainer.data.prefetch import prefetch_batches
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.distributed.failures import RESUME_HINT
from dialog_trainer.distributed.parallel import trained_parameters
from dialog_trainer.errors import TrainingError
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.model.compile import COMPILE_ERRORS, failure_reason
from dialog_trainer.reporting.console import closing_lines, make_printer, mask_line
from dialog_trainer.reporting.progress import RunProgress
from dialog_trainer.reporting.split_table import report_splits
from dialog_trainer.reporting.terminal import RunConsole
from dialog_trainer.signals import StopSignal
from dialog_trainer.tracking.environment import write_environment
from dialog_trainer.tracking.run_directory import lock_run_directory, open_log
from dialog_trainer.tracking.tracker import RowFeeder
from dialog_trainer.training.checkpoint import load_optimizer
from dialog_trainer.training.loop import Learner, LoopSettings, TrainingHooks, TrainingState, train
from dialog_trainer.training.saved_state import SavedState
from dialog_trainer.types import Batch, Say

if TYPE_CHECKING:
    from dialog_trainer.cli.commands.figures import TrainingFigures


def fix_schedule_steps(config: Config) -> Config:
    """The configuration with a number for `schedule_steps`: a resume with more `steps` keeps the planned schedules."""
    return config.replace({"schedule_steps": config.planned_steps})


def without_branches(config: Config) -> Config:
    """The configuration without what a sweep asks of this start of the run alone: it is not saved."""
    return config.replace({"sweep.keep_at": [], "sweep.fork_from": None})


def lock_for_all_ranks(folder: Path) -> AbstractContextManager[None]:
    """The folder, held for all processes by the main one."""
    return lock_run_directory(folder) if collectives.is_rank0() else nullcontext()


def feed_tracker(config: Config, folder: Path, say: Say) -> AbstractContextManager[object]:
    """Feeds the rows of `metrics.jsonl` to the tracker of `logger`, where there is one; on rank 0.

    Raises `ConfigError` if its class cannot be imported (a package is missing) or does not take its arguments.
    """
    target = config.logger.target
    if target is None or not collectives.is_rank0():
        return nullcontext()
    build = instantiate(target, config.logger.arguments, "logger", given=0, run_directory=folder)
    return RowFeeder(folder / "metrics.jsonl", build, warn=say)


def begin_training(config: Config, say: Say) -> torch.device:
    """The device, after the checks that need torch; sets up torch and prints notes. Raises `ConfigError`."""
    device = select_device(config)
    feed_tracker(config, Path(), say)  # its errors, before anything is read
    build_timeline(build_mask(config), config.planned_steps)  # its errors, before anything is read
    configure_torch(config.deterministic)
    for note in collect_notes(config):
        say(f"note: {note}")
    return device


def restore_parts(checkpoint: Path, saved: SavedState, config: Config, say: Say) -> TrainingParts:
    """Everything that training needs, with the weights and the optimizer of a checkpoint."""
    device = begin_training(config, say)
    model, tokenizer = load_saved_model(checkpoint, config, device, say)
    with collectives.local_rank0_first():
        training = load_dialogues(config, "train", say)
        validation = load_dialogues(config, "validation", say)
    parts = build_parts(config, device, tokenizer, model, training, validation, say)
    load_optimizer(checkpoint, model, parts.optimizer)
    if saved.loss_scale:
        parts.scaler.load_state_dict(saved.loss_scale)
    return parts


def build_parts(
    config: Config,
    device: torch.device,
    tokenizer: DialogueTokenizer,
    model: PreTrainedModel,
    training: DialogueDataset,
    validation: DialogueDataset,
    say: Say,
) -> TrainingParts:
    """Tokenizes, checks the mask, and builds loss, optimizer and plan; every `auto` of the configuration is resolved."""
    config = resolve_word_tokenizer(config, validation, say)
    with collectives.local_rank0_first():
        train_split = tokenize_split(config, training, tokenizer, say, config.data.truncation)
        validation_split = tokenize_split(config, validation, tokenizer, say)
        excluded_dialogues = report_contamination(config, training, validation, say)
    mask = build_mask(config)
    timeline = build_timeline(mask, config.planned_steps)
    mask_check = check_split_mask(config, train_split, tokenizer, mask, timeline, excluded_dialogues)
    summaries = (
        summarize_training(train_split, tokenizer, mask_check),
        summarize_held_out("validation", validation_split, tokenizer, mask),
    )
    report_splits(summaries, timeline, mask.trained_role, config, say)
    digest = digest_mask(config, train_split, tokenizer, excluded_dialogues)
    shared = {"training data and mask": digest["whole"], "validation data": validation.digest}
    collectives.assert_same_on_all_ranks(shared | {"weights": digest_weights(model)}, "give all the same files")
    config = resolve_learning_rate(config, say)
    config = resolve_precision(config, model, device, say)
    config = resolve_compile(config, model, device, say)
    loss = parallelize_loss(config, model, device)
    optimizer, scaler = build_optimizer(config, model), build_grad_scaler(config, device)
    config = warm_up_compile(config, loss, model, train_split.tokens, device, say)
    config = resolve_micro_batch_tokens(config, loss, optimizer, train_split.tokens, device, say)
    plan = plan_training(config, train_split.tokens, mask_check.indices, mask, device)
    config = _round_up_to_epochs(config, plan.steps_per_epoch, say)
    if config.validate_every_n_steps is None:  # saved as a number, which a resume keeps
        config = config.replace({"validate_every_n_steps": validation_interval(config, plan.steps_per_epoch)})
    return TrainingParts(
        config, device, tokenizer, model, loss, optimizer, scaler,
        train_split, validation_split, mask, timeline, mask_check, plan, digest,
    )  # fmt: skip


def _round_up_to_epochs(config: Config, steps_per_epoch: int, say: Say) -> Config:
    """With `whole_epochs` the number of `steps` in whole epochs; the schedules keep `schedule_steps`."""
    epochs = math.ceil(config.steps / steps_per_epoch)
    if not config.whole_epochs or config.steps == epochs * steps_per_epoch:
        return config
    say(
        f"whole_epochs: {epochs * steps_per_epoch:,} updates, {epochs:,} epochs of {steps_per_epoch:,}, instead of "
        f"steps={config.steps}; learning rate and mask are planned over {config.planned_steps:,} and followed past them"
    )
    return config.replace({"steps": epochs * steps_per_epoch})


def fit(folder: Path, parts: TrainingParts, state: TrainingState, console: RunConsole, stop: StopSignal) -> int:
    """Trains in the run folder until the end, an early stop or a stop request; returns the exit code."""
    rank, size = collectives.rank(), collectives.world_size()
    with console.log_to(open_log(folder, f"rank-{rank}", rank, size)):
        try:
            return _fit(folder, parts, state, console, stop)
        except Exception as error:
            saved = os.path.lexists(folder / "weights" / "last")
            error.add_note(RESUME_HINT if saved else "no checkpoint was saved yet")
            raise


def _fit(folder: Path, parts: TrainingParts, state: TrainingState, console: RunConsole, stop: StopSignal) -> int:
    say, config, plan = make_printer(console), parts.config, parts.plan
    steps = config.steps
    figures = None
    if collectives.is_rank0() and config.figures.enabled:
        figures = cache(lambda: _open_figures(folder, parts, say))
    if collectives.is_rank0():
        write_environment(folder, describe_device(parts.device))
    parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    trained = sum(parameter.numel() for parameter in trained_parameters(parts.model))
    adapted = "" if trained == parameters else f" ({trained:,} of them trained)"
    processes = f" ({collectives.world_size()} processes, {config.parallel})" if collectives.world_size() > 1 else ""
    say(
        f"run folder {folder}: {parameters:,} parameters{adapted} on {parts.device}{processes}, "
        f"{len(parts.mask_check.indices):,} sequences of {parts.mask_check.counts.tokens.sum():,} tokens, "
        f"{plan.steps_per_epoch:,} steps an epoch, steps {state.step:,} to {steps:,}, "
        f"validated every {validation_interval(config, plan.steps_per_epoch):,}"
    )
    say(mask_line(parts.mask, parts.timeline, parts.mask_check, parts.digest["whole"]))
    stop_requested = lambda: collectives.stop_seen(stop.requested())  # noqa: E731
    with (
        RunProgress(console, start=state.step, steps=steps, stop_requested=stop_requested) as progress,
        feed_tracker(config, folder, say),
        closing(TrainingCallbacks(folder, parts, state, console, progress, stop, figures)) as run,
        prefetch_batches(plan.batches) as batches,
    ):
        say(run.saver.describe())
        try:
            outcome = _run_loop(parts, state, run, batches)
            run.wait_for_save()
        finally:
            run.finish_figures()
    for line in closing_lines(
        folder, outcome, state.step, state.best, find_final_split(config), launch_options(config)
    ):
        say(line)
    if figures:
        from dialog_trainer.cli.commands.report import report_run  # imports the report

        report_run(folder, say)
    return int(collectives.all_reduce_max(stop.exit_code)) if outcome == "interrupted" else 0


def _open_figures(folder: Path, parts: TrainingParts, say: Say) -> TrainingFigures:
    """The figures of the run, with that of its schedules drawn. Not before the first step: it imports matplotlib."""
    from dialog_trainer.cli.commands.figures import TrainingFigures
    from dialog_trainer.reporting.plotting import describe_missing_font

    note = describe_missing_font(folder.name)
    if note:
        say(note)
    figures = TrainingFigures(folder, parts.config, parts.plan.role_weights, parts.timeline.final_from_step)
    figures.draw_schedule(parts.plan.learning_rate)
    return figures


def _run_loop(
    parts: TrainingParts, state: TrainingState, hooks: TrainingHooks, batches: Callable[[int], list[Batch]]
) -> str:
    config = parts.config
    try:
        return train(
            state,
            Learner(parts.loss, parts.optimizer, parts.scaler, build_autocast(config, parts.device)),
            LoopSettings(
                config.steps,
                config.seed,
                config.max_grad_norm,
                config.patience or sys.maxsize,
                config.max_skipped_updates if config.nan_policy == "skip" else 0,
            ),
            hooks,
            batches=batches,
            learning_rate=parts.plan.learning_rate,
        )
    except COMPILE_ERRORS as error:
        raise TrainingError(
            f"step {state.step}: torch could not compile: {failure_reason(error)}; resume from the last checkpoint without "
            "it: mode=resume load_model_type=last compile=false"
        ) from None
