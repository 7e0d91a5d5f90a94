"""The loss on held-out dialogues, of every turn and end, whatever the training mask and the weights in the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from transformers import PreTrainedModel

from dialog_trainer.data.batches import micro_batches, to_device
from dialog_trainer.data.order import share
from dialog_trainer.data.tables import TokenTable
from dialog_trainer.distributed import group
from dialog_trainer.evaluation.proportion import in_proportion
from dialog_trainer.model.loss import cells_of, token_losses
from dialog_trainer.records import NUM_DEPTHS, Role, Runs

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
def held_out_losses(
    model: PreTrainedModel,
    table: TokenTable,
    *,
    max_tokens: int,
    advance: Callable[[int], None] = lambda sequences: None,
    stopped: Callable[[], bool] = lambda: False,
) -> HeldOutLosses | None:
    """Over all sequences of `table`, at most `max_tokens` at a time; None once `stopped()` in any process.

    Each process takes its share of the sequences. `advance` is told how many of all were done.
    """
    model.eval()
    own = share(table.lengths, group.size(), group.rank())
    advance = in_proportion(advance, len(own), len(table))
    role_turn_sums = torch.zeros(2, len(Role), NUM_DEPTHS, dtype=torch.float64)
    by_dialogue = np.zeros((int(table.dialogues[-1]) + 1, len(Role), 2))
    parts = (own[first : first + CHUNK] for first in range(0, len(own), CHUNK))
    done, was_stopped = 0, False
    for batch in chain.from_iterable(micro_batches(table, part, every_turn, max_tokens) for part in parts):
        if was_stopped := stopped():
            break
        targets, nll = token_losses(model, to_device(batch, model.device))
        targets, nll = targets.cpu(), nll.cpu().double()
        role_turn_sums += cells_of(nll, batch.roles[targets], batch.turns[targets])
        of_token = np.repeat(table.dialogues[own[done : done + len(batch.lengths)]], batch.lengths)[targets]
        roles = batch.roles[targets].numpy()
        np.add.at(by_dialogue, (of_token, roles), np.stack([nll.numpy(), np.ones(len(nll))], axis=1))
        done += len(batch.lengths)
        advance(len(batch.lengths))
    if group.any_process(was_stopped):
        return None
    for sums in (role_turn_sums, torch.from_numpy(by_dialogue)):
        group.sum_over_processes(sums)
    return HeldOutLosses(role_turn_sums, by_dialogue)


def every_turn(spans: Runs) -> tuple[np.ndarray, float]:
    """Weight 1 for each token of a user, of an assistant and for each end."""
    weights = np.isin(spans.roles, (Role.USER, Role.ASSISTANT, Role.END)).astype(np.float32)
    return np.repeat(weights, spans.lengths), float((weights * spans.lengths).sum())
