"""The loss on held-out dialogues, of every turn and end, whatever the training mask and the weights in the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from transformers import PreTrainedModel

from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.data.packing import batch_to_device, pack_micro_batches
from dialog_trainer.data.sampler import local_shard
from dialog_trainer.distributed import collectives
from dialog_trainer.model.loss import sum_by_role_and_turn, token_losses
from dialog_trainer.types import NUM_TURN_BINS, Role, TurnSpans

CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """Sums over the tokens of a split, float64: `cells` as in `LossSum`; `by_dialogue` `(D, 5, 2)`: nats and number of
    tokens of each dialogue by role."""

    role_turn_sums: torch.Tensor
    by_dialogue: np.ndarray

    def of(self, roles: tuple[Role, ...]) -> np.ndarray:
        """Nats and tokens of all of `roles` by dialogue, `(D, 2)`."""
        return self.by_dialogue[:, list(roles)].sum(1)


@torch.no_grad()
def measure_held_out_losses(
    model: PreTrainedModel,
    table: TokenDataset,
    *,
    max_tokens: int,
    advance: Callable[[int], None] = lambda sequences: None,
    stopped: Callable[[], bool] = lambda: False,
) -> HeldOutLosses | None:
    """Over all sequences of `table`, at most `max_tokens` at a time; None once `stopped()` in any process.

    Each process takes its share of the sequences. `advance` is told how many of all were done.
    """
    model.eval()
    own = local_shard(table.lengths, collectives.world_size(), collectives.rank())
    advance = scale_progress(advance, len(own), len(table))
    role_turn_sums = torch.zeros(2, len(Role), NUM_TURN_BINS, dtype=torch.float64)
    by_dialogue = np.zeros((int(table.dialogues[-1]) + 1, len(Role), 2))
    parts = (own[first : first + CHUNK] for first in range(0, len(own), CHUNK))
    done, was_stopped = 0, False
    for batch in chain.from_iterable(pack_micro_batches(table, part, weigh_every_turn, max_tokens) for part in parts):
        if was_stopped := stopped():
            break
        targets, nll = token_losses(model, batch_to_device(batch, model.device))
        targets, nll = targets.cpu(), nll.cpu().double()
        role_turn_sums += sum_by_role_and_turn(nll, batch.roles[targets], batch.turns[targets])
        of_token = np.repeat(table.dialogues[own[done : done + len(batch.lengths)]], batch.lengths)[targets]
        roles = batch.roles[targets].numpy()
        np.add.at(by_dialogue, (of_token, roles), np.stack([nll.numpy(), np.ones(len(nll))], axis=1))
        done += len(batch.lengths)
        advance(len(batch.lengths))
    if collectives.any_rank(was_stopped):
        return None
    for sums in (role_turn_sums, torch.from_numpy(by_dialogue)):
        collectives.all_reduce_sum(sums)
    return HeldOutLosses(role_turn_sums, by_dialogue)


def weigh_every_turn(spans: TurnSpans) -> tuple[np.ndarray, float]:
    """Weight 1 for each token of a user, of an assistant and for each end."""
    weights = np.isin(spans.roles, (Role.USER, Role.ASSISTANT, Role.END)).astype(np.float32)
    return np.repeat(weights, spans.lengths), float((weights * spans.lengths).sum())


NAMES = {Role.ASSISTANT: "assistant", Role.USER: "user", Role.END: "end"}
TURN_NAMES = tuple(f"nll_turn_{turn:02d}" for turn in range(NUM_TURN_BINS - 1))


def nll_by_role(role_turn_sums: torch.Tensor) -> dict[str, float | int | None]:
    """`assistant_nll` ... in nats a token (None without a token) and `assistant_tokens` ..., of `LossSum.cells`."""
    nats, tokens = role_turn_sums.double().sum(2).tolist()
    values: dict[str, float | int | None] = {f"{name}_nll": _mean(nats[r], tokens[r]) for r, name in NAMES.items()}
    return values | {f"{name}_tokens": int(tokens[role]) for role, name in NAMES.items()}


def nll_by_turn(role_turn_sums: torch.Tensor) -> dict[str, float | None]:
    """`nll_turn_00` to `nll_turn_10`, over the words of the turn whoever says it (not the end of the dialogue)."""
    nats, tokens = role_turn_sums[:, [Role.USER, Role.ASSISTANT]].double().sum(1).tolist()
    return {name: _mean(nats[turn], tokens[turn]) for turn, name in enumerate(TURN_NAMES)}


def _mean(nats: float, tokens: float) -> float | None:
    return nats / tokens if tokens else None


def scale_progress(advance: Callable[[int], None], part: int, whole: int) -> Callable[[int], None]:
    """Takes counts of `part` things, and advances as many of `whole` as have the same share: all of them at the end."""
    done = told = 0
    if part == 0:
        return lambda count: None

    def on_part(count: int) -> None:
        nonlocal done, told
        done += count
        reached = done * whole // part
        if reached > told:
            advance(reached - told)
            told = reached

    return on_part
