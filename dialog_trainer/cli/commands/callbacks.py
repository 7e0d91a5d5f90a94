"""What a run does around each step: tracks, validates, draws figures and saves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dialog_trainer.build.data import build_probe_batches
from dialog_trainer.build.evaluation import build_signature, run_validation
from dialog_trainer.build.runtime import build_autocast
from dialog_trainer.cli.commands.parts import TrainingParts, validation_interval
from dialog_trainer.cli.commands.saving import CheckpointSaver
from dialog_trainer.distributed import collectives, parallel
from dialog_trainer.evaluation.gradient_alignment import measure_gradient_alignment
from dialog_trainer.evaluation.losses import nll_by_role, nll_by_turn
from dialog_trainer.evaluation.results import reply_row
from dialog_trainer.files import write_atomically
from dialog_trainer.metrics.registry import weighted_score
from dialog_trainer.model.compile import run_eagerly
from dialog_trainer.reporting.console import format_losses, make_printer, print_samples, score_line
from dialog_trainer.reporting.progress import RunProgress
from dialog_trainer.reporting.terminal import RunConsole
from dialog_trainer.signals import StopSignal
from dialog_trainer.tracking.jsonl import JsonlWriter, MetricWriter
from dialog_trainer.training.loop import StepReport, TrainingState
from dialog_trainer.training.mfu import compute_mfu, device_peak_flops
from dialog_trainer.types import Batch

if TYPE_CHECKING:  # imports matplotlib, which a run without figures does not need
    from dialog_trainer.cli.commands.figures import TrainingFigures


class TrainingCallbacks:
    """The `TrainingHooks` of a run: tracks, validates and saves. Only rank 0 writes, and only into `folder`.

    `figures` is None on other ranks, and where the run draws none; called, it gives them, and draws those of the start.
    """

    def __init__(
        self,
        folder: Path,
        parts: TrainingParts,
        state: TrainingState,
        console: RunConsole,
        progress: RunProgress,
        stop: StopSignal,
        figures: Callable[[], TrainingFigures] | None,
    ):
        self.folder, self.parts, self.state = folder, parts, state
        self._config, self._plan = parts.config, parts.plan
        self._console, self._progress, self._stop = console, progress, stop
        self._say = make_printer(console)
        self._switch = parts.timeline.final_from_step
        self.saver = CheckpointSaver(folder, parts)
        # A frozen weight takes two of the three products: it has no gradient of its own.
        self._parameters = round(
            sum(one.numel() * (1 if one.requires_grad else 2 / 3) for one in parts.model.parameters())
        )
        self._peak = collectives.world_size() * (device_peak_flops(parts.device, self._config.precision) or 0)
        self._probe: list[Batch] | None = None
        self._figures = figures
        if collectives.is_rank0():
            self._metrics = MetricWriter(folder, "metrics.jsonl", state.attempt)
            self._replies = JsonlWriter(folder, "replies.jsonl")
            for name, removed in (("metrics", self._metrics.removed_bytes), ("replies", self._replies.removed_bytes)):
                if removed:
                    self._say(f"note: {name}.jsonl ended in {removed:,} bytes of an unfinished line, which are removed")

    def track(self, report: StepReport) -> None:
        self._progress.step(report)
        if report.step % self._config.log_every_n_steps:
            return
        weights = self._plan.role_weights(report.step)
        speed = report.tokens / (report.seconds + report.data_seconds)
        seen = {name: getattr(self.state, name) for name in ("assistant_tokens_seen", "user_tokens_seen")}
        parts = nll_by_role(report.role_turn_sums) | nll_by_turn(report.role_turn_sums)
        self._row(
            "train",
            report.step,
            {
                "train_loss": report.loss,
                "lr": report.lr,
                "grad_norm": report.grad_norm,
                "tokens_per_second": round(speed, 1),
                **({"mfu": round(compute_mfu(self._parameters, speed, self._peak), 4)} if self._peak else {}),
                "data_seconds": round(report.data_seconds, 6),
                "trained_token_share": round(report.trained_tokens() / report.tokens, 6),
                "user_weight": weights.user,
                "assistant_weight": weights.assistant,
                **{name: value for name, value in parts.items() if value is not None and (value or "nll" in name)},
                **seen,
                **({"skipped_updates": self.state.skipped_updates} if report.problem else {}),
            },
        )

    def before_step(self, step: int) -> None:
        """Compares the gradients of the two roles where that is due."""
        collectives.set_stage(f"step {step:,}")
        every = self._config.mask_schedule.alignment_every_n_steps
        if every is None or step % every or not collectives.is_rank0():
            return
        if self._probe is None:
            self._probe = build_probe_batches(self._config, self.parts.validation.tokens, self.parts.device)
        with run_eagerly(), build_autocast(self._config, self.parts.device)():
            values = measure_gradient_alignment(self.parts.model, self._probe)
        self._row("probe", step, values)
        if self._figures:
            self._figures().alignment.renew()

    def validation_due(self, step: int) -> bool:
        every = validation_interval(self._config, self._plan.steps_per_epoch)
        return step > 0 and (step % every == 0 or step >= self._config.steps)

    def validate(self) -> None:
        """Scores the model, notes what is best so far, and saves; does nothing of it where a stop is asked for."""
        with run_eagerly(), parallel.unsharded(self.parts.loss):
            result = run_validation(
                self._config,
                self.parts.model,
                self.parts.tokenizer,
                self.parts.validation,
                progress=self._progress,
            )
        self._progress.close_stages()
        if result is None:
            return
        state, metrics = self.state, self._config.metrics
        # What decides how the run goes on is one number for all.
        loss, score = collectives.broadcast_from_rank0(
            lambda: (result.loss, weighted_score(result.scores, metrics.best))
        )
        better_loss, better_score = state.best.update(state.step, loss, score, counts=state.step > self._switch)
        state.validated_step = state.step
        values = {"validation_loss": result.loss, **result.losses, **result.scores, "best_metric_score": score}
        how = build_signature(self._config, self.parts.validation, result)
        self._row("validation", state.step, values | {"signature": how})
        samples = result.samples(self._config.prediction_print_n)
        head = {"step": state.step, "attempt": state.attempt, "split": "validation"}
        if collectives.is_rank0():
            self._replies.append(head | reply_row(reply) for reply in samples)
        self.save()
        self._say(score_line(state.step, result, score, better_loss, better_score, state.best))
        self._say(f"  {format_losses(result.losses)}")
        if better_loss or better_score or self._is_last():
            print_samples(self._console, samples, self.folder / "replies.jsonl")
        if self._figures:
            self._figures().curves.renew()

    def _is_last(self) -> bool:
        """Whether training ends with this validation."""
        state, patience = self.state, self._config.patience or sys.maxsize
        return state.step >= self._config.steps or state.best.bad_validations >= patience

    def finish_figures(self) -> None:
        """Draws what the last validations and probes have added."""
        try:
            if self._figures:
                self._figures().finish()
        except OSError as error:  # a run that has ended must not fail for it, nor hide why it did
            self._say(f"note: the last figures could not be drawn: {error}")

    def stop_requested(self) -> bool:
        return collectives.any_rank(self._stop.requested())

    def save_due(self, step: int) -> bool:
        return self.saver.due(step)

    def save(self) -> None:
        self.saver.save(self.state)

    def before_update(self, step: int) -> None:
        if step in self.parts.branch_steps:
            self.saver.keep_branch(self.state)

    def wait_for_save(self) -> None:
        """Returns once the last save is on the disk. Raises `TrainingError` where it could not be written."""
        self.saver.wait()

    def keep_broken_batch(self, report: StepReport) -> None:
        """Writes the dialogues of an update whose loss or gradient is not finite to `crash/step-<step>.json`."""
        if not collectives.is_rank0():
            return
        training = self.parts.training
        indices = self._plan.indices(report.step)
        rows = [training.dialogues.rows[int(index)] for index in np.unique(training.tokens.dialogues[indices])]
        content = {"step": report.step, "lr": report.lr, "problem": report.problem, "dialogues": rows}
        name = f"crash/step-{report.step:08d}.json"
        write_atomically(self.folder, name, json.dumps(content, ensure_ascii=False, indent=1))
        self._say(f"step {report.step:,} is not finite: its dialogues are in {self.folder / name}")

    def close(self) -> None:
        self.saver.close()
        if collectives.is_rank0():
            self._metrics.close()
            self._replies.close()

    def _row(self, split: str, step: int, values: dict[str, Any]) -> None:
        if collectives.is_rank0():
            self._metrics.add(step=step, epoch=step // self._plan.steps_per_epoch, split=split, values=values)
