"""The training loop: batch, forward, backward, clip, sum over ranks, check for finite values, optimizer step, track.

What happens every n steps (validate, save, stop) belongs to the `TrainingHooks` of the run. There is no device branch,
no printing and no config object in here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from dialog_trainer.data.packing import dummy_batch
from dialog_trainer.distributed import collectives, parallel
from dialog_trainer.errors import TrainingError
from dialog_trainer.seeds import derive_seed
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.saved_state import SavedState
from dialog_trainer.types import NUM_TURN_BINS, Batch, Role

NAN_REMEDY = (
    "Resume from the last checkpoint with a smaller optim.lr0 or max_grad_norm: mode=resume load_model_type=last; "
    "nan_policy=skip goes on without such updates"
)


@dataclass(slots=True)
class TrainingState:
    """Position of a training run. Saved with each checkpoint; with weights and optimizer state, an exact resume needs no
    more.

    `step` is the number of updates done, and so the number of the next update. `validated_step` is the step of the last
    complete validation. `skipped_updates` counts updates in a row that were not finite. `tokens_seen` counts all tokens of the batches, `user_tokens_seen` and `assistant_tokens_seen`
    the trained ones (weight above 0) of each role.
    """

    step: int = 0
    attempt: int = 0
    validated_step: int = 0
    skipped_updates: int = 0
    tokens_seen: int = 0
    user_tokens_seen: int = 0
    assistant_tokens_seen: int = 0
    best: BestTracker = field(default_factory=BestTracker)

    @classmethod
    def restore(cls, saved: SavedState, attempt: int, best: BestTracker) -> TrainingState:
        """The position that a checkpoint keeps."""
        return cls(
            step=saved.step,
            attempt=attempt,
            validated_step=saved.validated_step,
            skipped_updates=saved.skipped_updates,
            tokens_seen=saved.tokens_seen,
            user_tokens_seen=saved.user_tokens_seen,
            assistant_tokens_seen=saved.assistant_tokens_seen,
            best=best,
        )

    def add(self, report: StepReport) -> None:
        """Counts an update."""
        self.step += 1
        self.skipped_updates = self.skipped_updates + 1 if report.problem else 0
        self.tokens_seen += report.tokens
        self.user_tokens_seen += report.trained_tokens(Role.USER)
        self.assistant_tokens_seen += report.trained_tokens(Role.ASSISTANT)


@dataclass(frozen=True, slots=True)
class StepReport:
    """Inputs and results of update `step`, over the global batch.

    `loss` is in nats per unit of weight, None if no token had weight. `grad_norm` is the norm before clipping, None where
    fp16 skipped the update. `role_turn_sums` are those of `LossSum`, float64 on the CPU. `data_seconds` is the time that
    the step waited for its batches, `seconds` the time of the update after that. `problem`: why nothing was updated, as the
    loss or its gradient was not finite; there is no loss then.
    """

    step: int
    loss: float | None
    lr: float
    grad_norm: float | None
    tokens: int
    role_turn_sums: torch.Tensor
    seconds: float
    data_seconds: float = 0.0
    problem: str | None = None

    def trained_tokens(self, role: Role | None = None) -> int:
        """Tokens with a weight above 0: of one role, or of all."""
        return int((self.role_turn_sums[1] if role is None else self.role_turn_sums[1, role]).sum())


class TrainingHooks(Protocol):
    """What a run does around the updates. All ranks call each hook at the same step, in the same order."""

    def before_step(self, step: int) -> None:
        """Called at each number of updates done, the first and the last included. Leaves weights and optimizer alone."""

    def track(self, report: StepReport) -> None:
        """Called after each update."""

    def validation_due(self, step: int) -> bool: ...

    def validate(self) -> None:
        """Scores the model, sets `state.validated_step` and saves what it wants to keep. After a stop request it may
        return early, with `state.validated_step` unchanged."""

    def keep_broken_batch(self, report: StepReport) -> None:
        """Called for an update that was not finite, before it is skipped or ends the run."""

    def save_due(self, step: int) -> bool: ...

    def save(self) -> None:
        """Publishes a checkpoint of the current step. Called where due, at the end, and on a stop request."""

    def before_update(self, step: int) -> None:
        """Called before each update, after what is due at its step: validation, save and stop."""

    def stop_requested(self) -> bool:
        """Whether any rank was asked to stop; the answer is the same on all ranks."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """`steps`: updates in all. `seed`: of dropout, with step and rank. `max_grad_norm`: None never clips.
    `patience`: validations in a row without a better loss or score before an early stop. `max_skipped_updates`: those in a
    row that are skipped as they are not finite; after one more the run ends."""

    steps: int
    seed: int
    max_grad_norm: float | None
    patience: int
    max_skipped_updates: int = 0


@dataclass(frozen=True, slots=True)
class Learner:
    """What an update changes, and its arithmetic.

    `loss` maps a `Batch` to `(nats, role_turn_sums)` of a `LossSum`; it holds the model, parallelized over the ranks.
    `autocast` makes the mixed-precision context of a forward pass. An enabled `scaler` (fp16) skips updates whose
    gradient is not finite.
    """

    loss: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    autocast: Callable[[], AbstractContextManager[object]]


def train(
    state: TrainingState,
    learner: Learner,
    settings: LoopSettings,
    hooks: TrainingHooks,
    *,
    batches: Callable[[int], list[Batch]],
    learning_rate: Callable[[int], float],
) -> str:
    """Trains until `state.step == settings.steps`. Returns `finished`, `stopped early` or `interrupted`.

    `batches(step)` gives this rank's shard of the global batch of a step, as micro-batches with their loss weights.
    Raises `TrainingError` where a loss or gradient is not finite. All ranks call this function together.
    """
    saved_step = state.step or None  # a new run has no checkpoint
    while True:
        hooks.before_step(state.step)
        if hooks.validation_due(state.step) and state.validated_step != state.step:
            hooks.validate()
            saved_step = state.step if state.validated_step == state.step else saved_step
        outcome = _outcome(state, settings, hooks)
        if saved_step != state.step and (outcome or hooks.save_due(state.step)):
            hooks.save()
            saved_step = state.step
        if outcome:
            return outcome
        hooks.before_update(state.step)
        # Seeded at each step: a resume needs no generator state, and the hooks may draw.
        torch.manual_seed(derive_seed("step", settings.seed, state.step, collectives.rank()))
        start = time.perf_counter()
        micro_batches = batches(state.step)
        waited = time.perf_counter() - start
        lr = learning_rate(state.step)
        report = train_step(learner, micro_batches, step=state.step, lr=lr, max_grad_norm=settings.max_grad_norm)
        if report.problem:
            hooks.keep_broken_batch(report)
            if state.skipped_updates >= settings.max_skipped_updates:
                raise TrainingError(f"{report.problem}. {NAN_REMEDY}")
        state.add(report)
        hooks.track(replace(report, data_seconds=waited))


def _outcome(state: TrainingState, settings: LoopSettings, hooks: TrainingHooks) -> str | None:
    if hooks.stop_requested():
        return "interrupted"
    if state.step >= settings.steps:
        return "finished"
    if state.best.is_exhausted(settings.patience):
        return "stopped early"
    return None


def train_step(
    learner: Learner, batches: list[Batch], *, step: int, lr: float, max_grad_norm: float | None
) -> StepReport:
    """One update with the gradient of `Σ w·nll` over the global batch, divided by the sum of the batches' divisors.

    Gradient accumulation: `batches` are the micro-batches of this rank, whose gradients are summed. Each rank runs the
    same number of passes; a rank with fewer batches adds dummies of weight 0. A batch without any weight updates nothing.
    Nothing changes, and the report has a `problem`, if the loss, or without fp16 the gradient norm, is not finite.
    """
    start = time.perf_counter()
    loss, optimizer, scaler = learner.loss, learner.optimizer, learner.scaler
    loss.train()
    optimizer.zero_grad(set_to_none=True)
    divisor, tokens, passes = _sum_sizes(batches)
    # torch averages the gradients over the ranks; times their number, the mean is the sum.
    factor = collectives.world_size()
    parts = []
    # Around several passes: torch keeps the weights that it has cast until the end of the outermost context.
    with learner.autocast() if passes > 1 else nullcontext():
        for index in range(passes):
            batch = batches[index] if index < len(batches) else dummy_batch(next(loss.parameters()).device)
            with parallel.gradient_sync(loss, last=index == passes - 1):
                with learner.autocast():
                    nats, role_turn_sums = loss(batch)
                with torch.autocast(nats.device.type, enabled=False):
                    scaler.scale(nats * factor / max(divisor, 1e-12)).backward()
            parts.append(torch.cat([nats.detach().view(1), role_turn_sums.flatten()]))
    scaler.unscale_(optimizer)
    norm = parallel.clip_grad_norm(loss.parameters(), max_grad_norm)
    # The only point at which the step waits for the device.
    values = torch.cat([*parts, norm.view(1)]).cpu().double()
    *sums, grad_norm = torch.split(values, [*map(len, parts), 1])
    rank_sums = collectives.all_gather_rows(torch.stack(sums).sum(0))
    problem = _describe_problem(step, lr, rank_sums[:, 0].tolist(), 0.0 if scaler.is_enabled() else float(grad_norm))
    role_turn_sums = rank_sums[:, 1:].sum(0).view(2, len(Role), NUM_TURN_BINS)
    if problem:
        role_turn_sums = torch.zeros_like(role_turn_sums)
    trains = bool(role_turn_sums[1].any())
    if trains:
        for group in optimizer.param_groups:
            group["lr"] = lr
        scaler.step(optimizer)
        scaler.update()
    return StepReport(
        step=step,
        loss=float(rank_sums[:, 0].sum()) / divisor if trains else None,
        lr=lr,
        grad_norm=float(grad_norm) if math.isfinite(grad_norm) else None,
        tokens=tokens,
        role_turn_sums=role_turn_sums,
        seconds=time.perf_counter() - start,
        problem=problem,
    )


def _sum_sizes(batches: list[Batch]) -> tuple[float, int, int]:
    """Divisor and tokens of the global batch, and the forward passes that each rank runs (at least one)."""
    own = torch.tensor([[batch.divisor, len(batch.ids), 1] for batch in batches], dtype=torch.float64).view(-1, 3)
    rank_sizes = collectives.all_gather_rows(own.sum(0))
    divisor, tokens, _ = rank_sizes.sum(0).tolist()
    return divisor, int(tokens), max(1, int(rank_sizes[:, 2].max()))


def _describe_problem(step: int, lr: float, rank_nats: list[float], grad_norm: float) -> str | None:
    """Why an update with these numbers must not be made; None where it may."""
    if math.isfinite(sum(rank_nats)) and math.isfinite(grad_norm):
        return None
    bad = [rank for rank, nats in enumerate(rank_nats) if not math.isfinite(nats)]
    where = f" on rank {', '.join(map(str, bad))}" if bad and len(rank_nats) > 1 else ""
    return (
        f"step {step}: the loss ({sum(rank_nats)}{where}) or the norm of its gradient ({grad_norm}) is not finite; "
        f"nothing was updated (the learning rate was {lr:.3g})"
    )
