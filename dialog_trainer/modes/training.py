"""mode=train and mode=resume: from settings to a trained run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedModel

from dialog_trainer import checks, computing, experiment, leak_guard, run_folder
from dialog_trainer.data.ahead import ahead
from dialog_trainer.data.tables import DialogueTable
from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.distributed import group
from dialog_trainer.errors import CheckpointError, ConfigError, TrainingError
from dialog_trainer.job import Job
from dialog_trainer.masking.outline import outline
from dialog_trainer.model import compiled
from dialog_trainer.modes.exactness import differences
from dialog_trainer.modes.run import Parts, Run
from dialog_trainer.options import Settings
from dialog_trainer.reports.lines import end_lines, mask_line, speaker
from dialog_trainer.reports.mask_figures import draw_schedule
from dialog_trainer.reports.progress import RunProgress
from dialog_trainer.saved_run import inexact
from dialog_trainer.tracking import next_attempt
from dialog_trainer.training import checkpoint
from dialog_trainer.training.early_stopping import Best
from dialog_trainer.training.loop import TrainingState, train
from dialog_trainer.training.stop_signal import StopSignal

# What, beside its own group, decides the mask of a step.
_MASK_OPTIONS = ("train_user_turn_mask_step", "schedule_steps")
# What decides the meaning of the best score.
_SCORE_OPTIONS = {"mask_schedule.trained_role", *(f"metrics.{name}" for name in ("best", "protocol", "max_dialogues",
                  "max_new_tokens", "decoding", "temperature", "top_p", "beams"))}  # fmt: skip


def start(job: Job, console: Console) -> int:
    """mode=train. The run folder is made once everything is built; returns the exit code."""
    say = speaker(console)
    settings = _with_schedule(job.settings)
    device = _begin(settings, say)
    with group.once_a_machine():
        training = experiment.dialogues(settings, "train", say)
        validation = experiment.dialogues(settings, "validation", say)
        tokenizer = experiment.tokenizer(settings, training, say)
    model = experiment.model(settings, tokenizer, device, say)
    parts = _parts(settings, device, tokenizer, model, training, validation, say)
    with StopSignal() as stop:
        folder = Path(group.from_main(lambda: str(_claimed(job))))
        with _held(folder):
            if group.is_main():
                run_folder.write_settings(folder, parts.settings | {"digest": parts.digest}, job.hydra_files)
            return _train(folder, parts, TrainingState(), console, stop)


def _with_schedule(settings: Settings) -> Settings:
    return settings | {"schedule_steps": settings["schedule_steps"] or settings["steps"]}


def _claimed(job: Job) -> Path:
    return Path(job.parent) if job.name is None else run_folder.claim(Path(job.parent), job.name)


def _held(folder: Path) -> AbstractContextManager[None]:
    """The folder, held for all processes by the main one."""
    return run_folder.locked(folder) if group.is_main() else nullcontext()


def resume(job: Job, console: Console) -> int:
    """mode=resume: goes on exactly from a checkpoint of the run, in its folder; returns the exit code."""
    folder = Path(job.settings["resume_model_dir"])
    with _held(folder):
        return _resume(folder, replace(job, settings=_with_schedule(job.settings)), console)


def _resume(folder: Path, job: Job, console: Console) -> int:
    say, settings = speaker(console), job.settings
    weights = checkpoint.find(folder, settings["load_model_type"])
    saved = checkpoint.read_state(weights)
    state = _state_of(saved, weights, next_attempt(folder / "metrics.jsonl"))
    if any(key in _MASK_OPTIONS or key.startswith("mask_schedule.") for key, _, _ in job.changes):
        state.best.bad_validations = 0  # counted under another mask
    _check_there_is_more(settings, state)
    for line in _resume_lines(folder, weights, job, state):
        say(line)
    device = _begin(settings, say)
    model, tokenizer = experiment.saved_model(weights, settings, device, say)
    with group.once_a_machine():
        training = experiment.dialogues(settings, "train", say)
        validation = experiment.dialogues(settings, "validation", say)
    other_data = saved["held_out"] != validation.digest
    for line in _best_anew(state.best, state.step, [key for key, _, _ in job.changes], other_data):
        say(line)
    parts = _parts(settings, device, tokenizer, model, training, validation, say)
    checkpoint.load_optimizer(weights, model, parts.optimizer)
    parts.scaler.load_state_dict(saved.get("loss_scale") or parts.scaler.state_dict())
    for line in differences(saved, parts.surroundings()):
        say(line)
    kept = parts.settings | {"mode": "train", "resume_model_dir": None, "load_model_type": "metric"}
    with StopSignal() as stop:
        for link, step in group.from_main(lambda: _taken_over(folder, weights, kept, parts, state)).items():
            say(f"  weights/{link} was at step {step:,}, which is left behind: the next validation is the best anew")
            if link == "best_metric":
                state.best.forget_score(state.step)
            else:
                state.best.forget_loss(state.step)
        return _train(folder, parts, state, console, stop)


def _taken_over(folder: Path, weights: Path, settings: Settings, parts: Parts, state: TrainingState) -> dict[str, int]:
    """Makes the run's folder that of this attempt; returns the best links that a later step held, with that step."""
    run_folder.renew_settings(folder, settings | {"digest": parts.digest}, state.attempt)
    return checkpoint.forget_later(folder / "weights", weights, state.step)


def _begin(settings: Settings, say: experiment.Say) -> torch.device:
    device = computing.device(settings)
    outline(experiment.mask(settings), settings["schedule_steps"])  # its faults, before anything is read
    computing.set_up_torch(settings["deterministic"])
    for note in checks.notes(settings):
        say(f"note: {note}")
    return device


def _parts(
    settings: Settings,
    device: torch.device,
    tokenizer: Vocabulary,
    model: PreTrainedModel,
    training: DialogueTable,
    validation: DialogueTable,
    say: experiment.Say,
) -> Parts:
    with group.once_a_machine():
        train_split = experiment.with_tokens(settings, training, tokenizer, settings["data"]["truncation"])
        validation_split = experiment.with_tokens(settings, validation, tokenizer)
        left_out = leak_guard.leaked(settings, training, validation, say)
    mask = experiment.mask(settings)
    whole = outline(mask, settings["schedule_steps"])
    kept = experiment.checked_mask(settings, train_split, tokenizer, mask, whole, left_out)
    digest = experiment.mask_digest(settings, train_split, tokenizer, left_out)
    of_all = {"training data and mask": digest["whole"], "validation data": validation.digest}
    group.check_alike(of_all | {"weights": experiment.weights_digest(model)}, "give all the same files")
    settings = computing.with_compile(settings, model, device, say)
    loss = computing.spread(settings, model, device)
    optimizer, scaler = experiment.optimizer(settings, model), computing.scaler(settings, device)
    settings = computing.warmed_up(settings, loss, model, train_split.tokens, device, say)
    settings = computing.with_micro_batches(settings, loss, optimizer, train_split.tokens, device, say)
    plan = experiment.plan(settings, train_split.tokens, kept.indices, mask, device)
    return Parts(
        settings, device, tokenizer, model, loss, optimizer, scaler,
        train_split, validation_split, mask, whole, kept, plan, digest,
    )  # fmt: skip


def _train(folder: Path, parts: Parts, state: TrainingState, console: Console, stop: StopSignal) -> int:
    say, settings, plan = speaker(console), parts.settings, parts.plan
    steps = settings["steps"]
    if group.is_main():
        draw_schedule(
            folder / "vis_outputs" / "lr_schedule.png",
            steps=steps,
            learning_rate=plan.learning_rate,
            role_weights=plan.role_weights,
            switch=parts.outline.final_from_step,
        )
    else:
        console.file, console.quiet = run_folder.log_of(folder, group.rank(), group.size()), False
    parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    processes = f" ({group.size()} processes, {settings['parallel']})" if group.size() > 1 else ""
    say(
        f"run folder {folder}: {parameters:,} parameters on {parts.device}{processes}, "
        f"{len(parts.kept.indices):,} sequences of {parts.kept.counts.tokens.sum():,} tokens, "
        f"{plan.steps_per_epoch:,} steps an epoch, steps {state.step:,} to {steps:,}"
    )
    say(mask_line(parts.mask, parts.outline, parts.kept, parts.digest["whole"]))
    with (
        RunProgress(console, start=state.step, steps=steps) as progress,
        closing(Run(folder, parts, state, console, progress, stop)) as run,
        ahead(plan.batches) as batches,
    ):
        try:
            outcome = _through(parts, state, run, batches, stop)
        finally:
            run.finish_figures()
    split = "validation" if settings["data"].get("test_data_path", "-") is None else "test"
    for line in end_lines(folder, outcome, state.step, state.best, split):
        say(line)
    return int(group.largest(stop.exit_code)) if outcome == "interrupted" else 0


def _through(parts: Parts, state: TrainingState, run: Run, batches: Callable, stop: StopSignal) -> str:
    settings = parts.settings
    try:
        return train(
            state,
            parts.loss,
            parts.optimizer,
            parts.scaler,
            steps=settings["steps"],
            seed=settings["seed"],
            batches=batches,
            learning_rate=parts.plan.learning_rate,
            max_grad_norm=settings["max_grad_norm"],
            autocast=computing.autocast(settings, parts.device),
            track=run.track,
            before_step=run.before_step,
            validation_due=run.validation_due,
            validate=run.validate,
            save_due=run.save_due,
            save=run.save,
            patience=settings["patience"],
            stopped=lambda: group.any_process(stop.requested()),
        )
    except compiled.FAILURES as error:
        raise TrainingError(
            f"step {state.step}: torch could not compile: {compiled.reason(error)}; go on from the last checkpoint without "
            "it: mode=resume load_model_type=last compile=false"
        ) from None


def _state_of(saved: dict, weights: Path, attempt: int) -> TrainingState:
    keys = ("step", "validated_step", "tokens_seen", "user_tokens_seen", "assistant_tokens_seen")
    missing = [key for key in (*keys, "best", "digest", "held_out") if key not in saved]
    if missing:
        raise CheckpointError(
            f"{weights / 'trainer' / 'state.json'} has no {', '.join(missing)}: another version wrote it; to start anew "
            f"from its weights, pass mode=train, the options of that run, and model.pretrained_model={weights}"
        )
    return TrainingState(**{key: saved[key] for key in keys}, attempt=attempt, best=Best(**saved["best"]))


def _best_anew(best: Best, step: int, changed: Sequence[str], other_data: bool) -> list[str]:
    """Forgets a best score or loss that means something else by now, and says so."""
    lines = []
    if best.score is not None and (other_data or any(key in _SCORE_OPTIONS for key in changed)):
        best.forget_score(step)
        why = "on other data" if other_data else "by another score"
        lines.append(f"  best_metric was chosen {why}: the next validation is the best anew")
    if best.loss is not None and (other_data or "mask_schedule.trained_role" in changed):
        best.forget_loss(step)
        why = "on other data" if other_data else "by the loss of another role"
        lines.append(f"  best_loss was chosen {why}: the next validation is the best anew")
    return lines


def _check_there_is_more(settings: Settings, state: TrainingState) -> None:
    unvalidated = state.step == settings["steps"] and state.validated_step != state.step
    if state.step >= settings["steps"] and not unvalidated:
        raise ConfigError(
            [f"steps={settings['steps']}: this checkpoint has {state.step:,} updates already; pass a larger steps"]
        )
    bad = state.best.bad_validations
    if bad >= settings["patience"]:
        raise ConfigError(
            [
                f"patience={settings['patience']}: this checkpoint stopped early, after {bad} validations without a "
                "better one; pass a larger patience"
            ]
        )


def _resume_lines(folder: Path, weights: Path, job: Job, state: TrainingState) -> list[str]:
    settings = job.settings
    link = checkpoint.LINKS[settings["load_model_type"]]
    lines = [f"resuming {folder} from weights/{link} (step {state.step:,}) as attempt {state.attempt}"]
    last = folder / "weights" / "last"
    if last.exists() and last.resolve() != weights:
        lines.append(f"  weights/last is at step {_step_of(last)}: load_model_type=last goes on from there")
    lines += [f"  {key}: {before} -> {after}" for key, before, after in job.changes]
    if inexact(job.changes):
        lines.append(f"  with other values of {', '.join(inexact(job.changes))} training goes on, but not exactly")
    planned = settings["schedule_steps"]
    if settings["steps"] > planned:
        lines.append(
            f"  schedules were planned over {planned:,} steps and stay at their end values after that; "
            f"schedule_steps={settings['steps']} stretches them"
        )
    return lines


def _step_of(folder: Path) -> str:
    try:
        return f"{checkpoint.read_state(folder)['step']:,}"
    except (OSError, ValueError, KeyError, TypeError):  # it is not the checkpoint that was asked for, nor verified
        return "(unreadable)"
