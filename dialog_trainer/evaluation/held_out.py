"""The loss on held-out dialogues, of every turn and end, whatever the training mask and the weights in the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

    cells: torch.Tensor
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
    found = _losses_of(model, table, own, max_tokens, in_proportion(advance, len(own), len(table)), stopped)
    if group.any_process(found is None):
        return None
    for sums in (found.cells, torch.from_numpy(found.by_dialogue)):
        group.sum_over_processes(sums)
    return found


def _losses_of(
    model: PreTrainedModel,
    table: TokenTable,
    own: np.ndarray,
    max_tokens: int,
    advance: Callable[[int], None],
    stopped: Callable[[], bool],
) -> HeldOutLosses | None:
    cells = torch.zeros(2, len(Role), NUM_DEPTHS, dtype=torch.float64)
    by_dialogue = np.zeros((int(table.dialogues[-1]) + 1, len(Role), 2))
    for first in range(0, len(own), CHUNK):
        indices = own[first : first + CHUNK]
        done = 0
        for batch in micro_batches(table, indices, every_turn, max_tokens):
            if stopped():
                return None
            targets, nll = token_losses(model, to_device(batch, model.device))
            targets, nll = targets.cpu(), nll.cpu().double()
            cells += cells_of(nll, batch.roles[targets], batch.turns[targets])
            of_token = np.repeat(table.dialogues[indices[done : done + len(batch.lengths)]], batch.lengths)[targets]
            roles = batch.roles[targets].numpy()
            np.add.at(by_dialogue, (of_token, roles), np.stack([nll.numpy(), np.ones(len(nll))], axis=1))
            done += len(batch.lengths)
            advance(len(batch.lengths))
    return HeldOutLosses(cells, by_dialogue)


def every_turn(runs: Runs) -> tuple[np.ndarray, float]:
    """Weight 1 for each token of a user, of an assistant and for each end."""
    weights = np.isin(runs.roles, (Role.USER, Role.ASSISTANT, Role.END)).astype(np.float32)
    return np.repeat(weights, runs.lengths), float((weights * runs.lengths).sum())
