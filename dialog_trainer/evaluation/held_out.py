"""The loss on held-out dialogues, by role and turn: of every turn and end, whatever the training mask and the data's weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel

from dialog_trainer.data.batches import micro_batches, to_device
from dialog_trainer.data.tables import TokenTable
from dialog_trainer.model.loss import loss_sum
from dialog_trainer.records import Role, Runs

CHUNK = 1_000


@torch.no_grad()
def held_out_losses(
    model: PreTrainedModel,
    table: TokenTable,
    *,
    max_tokens: int,
    advance: Callable[[int], None] = lambda sequences: None,
    stopped: Callable[[], bool] = lambda: False,
) -> torch.Tensor | None:
    """The cells of `LossSum` over all sequences of `table`, float64, at most `max_tokens` at a time; None once `stopped()`.

    `advance` is told how many sequences were done.
    """
    model.eval()
    total = None
    for first in range(0, len(table), CHUNK):
        indices = np.arange(first, min(first + CHUNK, len(table)))
        for batch in micro_batches(table, indices, every_turn, max_tokens):
            if stopped():
                return None
            cells = loss_sum(model, to_device(batch, model.device)).cells.cpu().double()
            total = cells if total is None else total + cells
            advance(len(batch.lengths))
    return total


def every_turn(runs: Runs) -> tuple[np.ndarray, float]:
    """Weight 1 for each token of a user, of an assistant and for each end."""
    weights = np.isin(runs.roles, (Role.USER, Role.ASSISTANT, Role.END)).astype(np.float32)
    return np.repeat(weights, runs.lengths), float((weights * runs.lengths).sum())
