"""mode=train and mode=resume: from settings to a trained run folder."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from transformers import PreTrainedModel

from dialog_trainer import __version__, experiment, options, run_folder
from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.validation import Validation, validate
from dialog_trainer.experiment import Plan, Split
from dialog_trainer.masking.schedules import final_from_step, progress_of
from dialog_trainer.metrics.scores import weighted
from dialog_trainer.options import Settings
from dialog_trainer.records import Role
from dialog_trainer.reports.figures import draw_curves, draw_schedule
from dialog_trainer.reports.lines import reply_row, sample_lines, score_line, speaker
from dialog_trainer.reports.progress import RunProgress
from dialog_trainer.saved_run import Changed
from dialog_trainer.tracking import MetricLog, RowLog, next_attempt
from dialog_trainer.training import checkpoint
from dialog_trainer.training.early_stopping import Best
from dialog_trainer.training.loop import StepReport, TrainingState, train
from dialog_trainer.training.stop_signal import StopSignal


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of, built."""

    settings: Settings
    on: torch.device
    vocabulary: Vocabulary
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    training: Split
    validation: Split
    plan: Plan


def start(settings: Settings, console: Console, claim: Callable[[], Path], hydra_files: dict[str, object]) -> int:
    """mode=train. `claim` makes the run folder, once everything is built; returns the exit code."""
    say = speaker(console)
    settings = settings | {"schedule_steps": settings["schedule_steps"] or settings["steps"]}
    on = _begin(settings, say)
    training = experiment.dialogues(settings, "train", say)
    validation = experiment.dialogues(settings, "validation", say)
    vocabulary = experiment.vocabulary(settings, training, say)
    model = experiment.model(settings, vocabulary, on, say)
    parts = _parts(settings, on, vocabulary, model, training, validation)
    run = claim()
    held = run_folder.lock(run)  # noqa: F841  held until the process ends
    run_folder.write_settings(run, settings, hydra_files)
    return _train(run, parts, TrainingState(), console)


def resume(changed: Changed, console: Console) -> int:
    """mode=resume: goes on exactly from a checkpoint of the run, in its folder."""
    say = speaker(console)
    settings, run = changed.settings, Path(changed.settings["resume_model_dir"])
    held = run_folder.lock(run)  # noqa: F841  held until the process ends
    folder = checkpoint.find(run, settings["load_model_type"])
    saved = checkpoint.read_state(folder)
    state = TrainingState(
        **{key: saved[key] for key in ("step", "validated_step", "tokens_seen", "trained_tokens_seen")},
        attempt=next_attempt(run / "metrics.jsonl"),
        best=Best(**saved["best"]),
    )
    _check_there_is_more(settings, state)
    _say_where(run, folder, changed, state, say)
    on = _begin(settings, say)
    model, vocabulary = experiment.saved_model(folder, settings, on, say)
    training = experiment.dialogues(settings, "train", say)
    validation = experiment.dialogues(settings, "validation", say)
    parts = _parts(settings, on, vocabulary, model, training, validation)
    checkpoint.load_optimizer(folder, model, parts.optimizer)
    for line in _differences(saved, _surroundings(parts)):
        say(line)
    kept = settings | {"mode": "train", "resume_model_dir": None, "load_model_type": "metric"}
    run_folder.renew_settings(run, kept, state.attempt)
    return _train(run, parts, state, console)


def _begin(settings: Settings, say: experiment.Say) -> torch.device:
    on = experiment.device(settings)
    experiment.set_up_torch(settings["deterministic"])
    for note in options.notes(settings):
        say(f"note: {note}")
    return on


def _parts(settings: Settings, on, vocabulary: Vocabulary, model: PreTrainedModel, training, validation) -> Parts:
    train_split = experiment.with_tokens(settings, training, vocabulary)
    return Parts(
        settings,
        on,
        vocabulary,
        model,
        experiment.optimizer(settings, model),
        train_split,
        experiment.with_tokens(settings, validation, vocabulary),
        experiment.plan(settings, train_split.tokens, on),
    )


def _train(run: Path, parts: Parts, state: TrainingState, console: Console) -> int:
    say = speaker(console)
    settings, plan = parts.settings, parts.plan
    steps, schedule_steps = settings["steps"], settings["schedule_steps"]
    switch = final_from_step(plan.mask, schedule_steps)
    figures = run / "vis_outputs"
    draw_schedule(
        figures / "lr_schedule.png",
        steps=steps,
        schedule_steps=schedule_steps,
        learning_rate=plan.learning_rate,
        mask=plan.mask,
    )
    _say_plan(run, parts, state, switch, say)
    metrics, replies = MetricLog(run / "metrics.jsonl", state.attempt), RowLog(run / "replies.jsonl")

    def track(report: StepReport) -> None:
        progress.step(report)
        if report.step % settings["log_every_n_steps"] == 0:
            weights = plan.mask(progress_of(report.step, schedule_steps))
            metrics.add(
                step=report.step,
                epoch=report.step // plan.steps_per_epoch,
                split="train",
                values={
                    "train_loss": report.loss,
                    "lr": report.lr,
                    "grad_norm": report.grad_norm,
                    "tokens_per_second": round(report.tokens / report.seconds, 1),
                    "trained_token_share": round(report.trained_tokens / report.tokens, 6),
                    "user_weight": weights.get(Role.USER, 0.0),
                },
            )

    def save(names: tuple[str, ...] = ("last",)) -> None:
        checkpoint.save(
            run / "weights",
            names,
            model=parts.model,
            vocabulary=parts.vocabulary,
            optimizer=parts.optimizer,
            state=_saved_state(state, parts, switch),
        )

    def validate_now() -> None:
        result = validate(
            parts.model,
            parts.vocabulary,
            parts.validation.dialogues,
            parts.validation.tokens,
            experiment.validation_settings(settings),
            stage=progress.stage,
            stopped=stop.requested,
        )
        progress.close_stages()
        if result is None:
            return
        score = weighted(result.scores, settings["metrics"]["best"])
        better_loss, better_score = state.best.update(state.step, result.loss, score, counts=state.step > switch)
        state.validated_step = state.step
        _record(result, score, state, plan, metrics, replies, settings["prediction_print_n"])
        say(score_line(state.step, result, score, better_loss, better_score, state.best.bad_validations))
        for line in sample_lines(result.samples(settings["prediction_print_n"])):
            say(line)
        save(("last", *(("best_metric",) if better_score else ()), *(("best_loss",) if better_loss else ())))
        draw_curves(
            figures,
            run / "metrics.jsonl",
            common=settings["metrics"]["common"],
            names=settings["metrics"]["names"],
            switch=switch,
        )

    every, save_every = settings["validate_every_n_steps"] or plan.steps_per_epoch, settings["save_every_n_steps"]
    with StopSignal() as stop, RunProgress(console, start=state.step, steps=steps) as progress:
        outcome = train(
            state,
            parts.model,
            parts.optimizer,
            steps=steps,
            seed=settings["seed"],
            rank=0,
            batches=plan.batches,
            learning_rate=plan.learning_rate,
            max_grad_norm=settings["max_grad_norm"],
            autocast=experiment.autocast(settings, parts.on),
            track=track,
            validation_due=lambda step: step > 0 and (step % every == 0 or step >= steps),
            validate=validate_now,
            save_due=lambda step: bool(save_every) and step % save_every == 0,
            save=save,
            patience=settings["patience"],
            stopped=stop.requested,
        )
    metrics.close()
    replies.close()
    _say_end(run, outcome, state, settings, say)
    return stop.exit_code if outcome == "interrupted" else 0


def _record(
    result: Validation,
    score: float,
    state: TrainingState,
    plan: Plan,
    metrics: MetricLog,
    replies: RowLog,
    samples: int,
) -> None:
    values = {"validation_loss": result.loss, **result.scores, "best_metric_score": score, "protocol": result.protocol}
    metrics.add(step=state.step, epoch=state.step // plan.steps_per_epoch, split="validation", values=values)
    head = {"step": state.step, "attempt": state.attempt, "split": "validation"}
    replies.append(head | reply_row(reply) for reply in result.samples(samples))


def _saved_state(state: TrainingState, parts: Parts, switch: int) -> dict:
    best = state.best
    return {
        **asdict(state),
        "epoch": state.step // parts.plan.steps_per_epoch,
        "schedule_steps": parts.settings["schedule_steps"],
        "mask_final_from_step": switch,
        "kept": {"last": state.step, "best_metric": best.score_step, "best_loss": best.loss_step},
        **_surroundings(parts),
    }


def _surroundings(parts: Parts) -> dict:
    """What bit-exact continuation depends on beside the settings."""
    return {
        "data": parts.training.tokens.digest,
        "vocabulary": parts.vocabulary.digest(),
        "threads": torch.get_num_threads(),
        "device": parts.on.type,
        "versions": {
            "dialog_trainer": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def _differences(saved: dict, today: dict) -> list[str]:
    lines = []
    if saved["data"] != today["data"]:
        lines.append(
            "the training data are not those of the checkpoint: training goes on, not exactly as it would have"
        )
    for key in ("threads", "device"):
        if saved[key] != today[key]:
            lines.append(f"{key} {today[key]} instead of {saved[key]}: sums may differ in their last bits")
    for name, version in today["versions"].items():
        if saved["versions"].get(name) != version:
            lines.append(
                f"{name} {version} instead of {saved['versions'].get(name)}: sums may differ in their last bits"
            )
    return lines


def _check_there_is_more(settings: Settings, state: TrainingState) -> None:
    if state.step >= settings["steps"]:
        raise ConfigError(
            [f"steps={settings['steps']}: this checkpoint has {state.step:,} updates already; pass a larger steps"]
        )
    if state.best.bad_validations >= settings["patience"]:
        raise ConfigError(
            [
                f"patience={settings['patience']}: this checkpoint stopped early, after {state.best.bad_validations} "
                "validations without a better one; pass a larger patience"
            ]
        )


def _say_where(run: Path, folder: Path, changed: Changed, state: TrainingState, say: experiment.Say) -> None:
    settings = changed.settings
    link = checkpoint.LINKS[settings["load_model_type"]]
    say(f"resuming {run} from weights/{link} (step {state.step:,}) as attempt {state.attempt}")
    last = run / "weights" / "last"
    if link != "last" and last.exists() and last.resolve() != folder:
        say(
            f"  weights/last is at step {checkpoint.read_state(last)['step']:,}: load_model_type=last goes on from there"
        )
    for key, before, after in changed.changes:
        say(f"  {key}: {before} -> {after}")
    if changed.inexact():
        say(f"  with another {', '.join(changed.inexact())} training goes on, but not exactly as it would have")
    if settings["steps"] > settings["schedule_steps"]:
        say(
            f"  schedules were planned over {settings['schedule_steps']:,} steps and stay at their end values after that; "
            f"schedule_steps={settings['steps']} stretches them"
        )


def _say_plan(run: Path, parts: Parts, state: TrainingState, switch: int, say: experiment.Say) -> None:
    settings, tokens = parts.settings, parts.training.tokens
    parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    say(
        f"run folder {run}: {parameters:,} parameters on {parts.on}, {len(tokens):,} sequences of "
        f"{int(tokens.lengths.sum()):,} tokens, {parts.plan.steps_per_epoch:,} steps an epoch, "
        f"steps {state.step:,} to {settings['steps']:,}"
    )
    if switch >= settings["steps"]:
        say(f"mask: not final within this run (it would be from step {switch:,})")
    else:
        say(
            f"mask: final weights from step {switch:,} (progress {progress_of(switch, settings['schedule_steps']):.2f}); see vis_outputs/lr_schedule.png"
        )


def _say_end(run: Path, outcome: str, state: TrainingState, settings: Settings, say: experiment.Say) -> None:
    best = state.best
    say(f"{outcome} at step {state.step:,}; checkpoints in {run / 'weights'}: last (step {state.step:,})")
    if best.score_step is not None:
        say(
            f"  best_metric (step {best.score_step:,}, score {best.score:.4f}), best_loss (step {best.loss_step:,}, loss {best.loss:.4f})"
        )
    quoted = f"resume_model_dir={run}"
    if outcome == "interrupted":
        say(f"go on:    python -m dialog_trainer mode=resume {quoted} load_model_type=last")
    else:
        say(f"validate: python -m dialog_trainer mode=validate {quoted} split=test")
        say(f"talk:     python -m dialog_trainer mode=chat {quoted}")
