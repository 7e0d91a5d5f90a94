"""The training loop: next batch, weigh, forward, sum, backward, sum over processes, finite?, clip, step, track.

What happens every n steps is passed in as functions; there is no device, no printing and no config in here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch

from dialog_trainer.data.packing import dummy_batch
from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.distributed import collectives, parallel
from dialog_trainer.errors import TrainingError
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.types import NUM_TURN_BINS, Batch, Role


@dataclass(slots=True)
class TrainingState:
    """Where the training stands; with weights and optimizer, all that going on exactly needs.

    `step` is the number of updates done, and so the number of the next one. `user_tokens_seen` and
    `assistant_tokens_seen` count trained tokens.
    """

    step: int = 0
    attempt: int = 0
    validated_step: int = 0
    tokens_seen: int = 0
    user_tokens_seen: int = 0
    assistant_tokens_seen: int = 0
    best: BestTracker = field(default_factory=BestTracker)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What update `step` was computed with and gave, over the global batch. `loss` is None if no token had weight;
    `cells` are those of `LossSum`, float64 on the CPU; `grad_norm` is None where fp16 left the update out. The step
    waited `data_seconds` for its batches, and then took `seconds`."""

    step: int
    loss: float | None
    lr: float
    grad_norm: float | None
    tokens: int
    role_turn_sums: torch.Tensor
    seconds: float
    data_seconds: float = 0.0

    def trained_tokens(self, role: Role | None = None) -> int:
        return int((self.role_turn_sums[1] if role is None else self.role_turn_sums[1, role]).sum())


def train(
    state: TrainingState,
    loss: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    steps: int,
    seed: int,
    batches: Callable[[int], list[Batch]],
    learning_rate: Callable[[int], float],
    max_grad_norm: float | None,
    autocast: Callable[[], AbstractContextManager],
    track: Callable[[StepReport], None],
    before_step: Callable[[int], None],
    validation_due: Callable[[int], bool],
    validate: Callable[[], None],
    save_due: Callable[[int], bool],
    save: Callable[[], None],
    patience: int,
    stopped: Callable[[], bool],
) -> str:
    """Trains until `state.step == steps`; returns `finished`, `stopped early` or `interrupted`.

    `loss` is `Loss`, spread over the processes of the group; all of them call this function, and `stopped()` is agreed.
    `batches(step)` gives this process's share of the global batch of a step as micro-batches, weights included.
    `before_step(n)` is called after each number `n` of updates done, 0 and the last included; it changes nothing.
    `validate()` is called where `validation_due(state.step)`, at most once a step, and saves what it wants to keep;
    once `stopped()`, it may return without having validated. `save()` is called where due, at the end and on a stop.
    """
    saved_step = state.step or None  # of a run that begins, nothing is saved
    while True:
        before_step(state.step)
        if validation_due(state.step) and state.validated_step != state.step:
            validate()
            saved_step = state.step if state.validated_step == state.step else saved_step
        outcome = _outcome(state, steps, patience, stopped)
        if saved_step != state.step and (outcome or save_due(state.step)):
            save()
            saved_step = state.step
        if outcome:
            return outcome
        torch.manual_seed(derive_seed("step", seed, state.step, collectives.rank()))
        start = time.perf_counter()
        own = batches(state.step)
        waited = time.perf_counter() - start
        report = train_step(
            loss,
            optimizer,
            scaler,
            own,
            step=state.step,
            lr=learning_rate(state.step),
            max_grad_norm=max_grad_norm,
            autocast=autocast,
        )
        state.step += 1
        state.tokens_seen += report.tokens
        state.user_tokens_seen += report.trained_tokens(Role.USER)
        state.assistant_tokens_seen += report.trained_tokens(Role.ASSISTANT)
        track(replace(report, data_seconds=waited))


def _outcome(state: TrainingState, steps: int, patience: int, stopped: Callable[[], bool]) -> str | None:
    if stopped():
        return "interrupted"
    if state.step >= steps:
        return "finished"
    if state.best.bad_validations >= patience:
        return "stopped early"
    return None


def train_step(
    loss: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batches: list[Batch],
    *,
    step: int,
    lr: float,
    max_grad_norm: float | None,
    autocast: Callable[[], AbstractContextManager],
) -> StepReport:
    """One update with the gradient of `Σ w·nll` over the whole global batch, divided by the sum of its divisors.

    `batches` are those of this process; each process computes as many, silent ones behind its own. A `scaler` that is
    enabled (fp16) leaves out an update whose gradient is not finite, and scales less from then on. Otherwise raises
    `TrainingError`, before anything is changed, if the loss or the norm of the gradient is not finite.
    """
    start = time.perf_counter()
    loss.train()
    optimizer.zero_grad(set_to_none=True)
    own = torch.tensor([[batch.divisor, len(batch.ids)] for batch in batches], dtype=torch.float64).view(-1, 2).sum(0)
    sizes = collectives.all_gather_rows(torch.cat([own, torch.tensor([float(len(batches))], dtype=torch.float64)]))
    divisor, tokens, _ = sizes.sum(0).tolist()
    rounds = max(1, int(sizes[:, 2].max()))
    # Torch takes the mean of the gradients over the processes; times their number, it is the sum.
    factor = collectives.world_size()
    parts = []
    for number in range(rounds):
        batch = batches[number] if number < len(batches) else dummy_batch(next(loss.parameters()).device)
        with parallel.gradient_sync(loss, last=number == rounds - 1):
            with autocast():
                nats, role_turn_sums = loss(batch)
            scaler.scale(nats * factor / max(divisor, 1e-12)).backward()
        parts.append(torch.cat([nats.detach().view(1), role_turn_sums.flatten()]))
    scaler.unscale_(optimizer)
    norm = parallel.clip_grad_norm(loss.parameters(), max_grad_norm)
    # One wait for the device for all that is asked of it here.
    *sums, grad_norm = torch.cat([*parts, norm.view(1)]).cpu().double().split([*map(len, parts), 1])
    rows = collectives.all_gather_rows(torch.stack(sums).sum(0))
    _check_finite(step, lr, rows[:, 0].tolist(), 0.0 if scaler.is_enabled() else float(grad_norm))
    nats, role_turn_sums = float(rows[:, 0].sum()), rows[:, 1:].sum(0).view(2, len(Role), NUM_TURN_BINS)
    trains = bool(role_turn_sums[1].any())
    if trains:
        for settings in optimizer.param_groups:
            settings["lr"] = lr
        scaler.step(optimizer)
        scaler.update()
    return StepReport(
        step=step,
        loss=nats / divisor if trains else None,
        lr=lr,
        grad_norm=float(grad_norm) if math.isfinite(grad_norm) else None,
        tokens=int(tokens),
        role_turn_sums=role_turn_sums,
        seconds=time.perf_counter() - start,
    )


def _check_finite(step: int, lr: float, nats: list[float], grad_norm: float) -> None:
    """`nats` are those of each process."""
    if not (math.isfinite(sum(nats)) and math.isfinite(grad_norm)):
        bad = [rank for rank, value in enumerate(nats) if not math.isfinite(value)]
        where = f" on rank {', '.join(map(str, bad))}" if bad and len(nats) > 1 else ""
        raise TrainingError(
            f"step {step}: the loss ({sum(nats)}{where}) or the norm of its gradient ({grad_norm}) is not finite; nothing "
            f"was updated. Go on from the last checkpoint with a smaller optim.lr0 (it was {lr:.3g} at this step) or a "
            "smaller max_grad_norm: mode=resume load_model_type=last"
        )
