"""The loss on held-out dialogues: always over the assistant's turns and the end, whatever the training mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel

from dialog_trainer.data.batches import micro_batches, to_device
from dialog_trainer.data.tables import TokenTable
from dialog_trainer.model.loss import loss_sum
from dialog_trainer.records import LossSum, Role

HELD_OUT_WEIGHTS = {Role.ASSISTANT: 1.0, Role.END: 1.0}
CHUNK = 1_000


@torch.no_grad()
def held_out_loss(
    model: PreTrainedModel,
    table: TokenTable,
    *,
    max_tokens: int,
    advance: Callable[[int], None] = lambda sequences: None,
    stopped: Callable[[], bool] = lambda: False,
) -> LossSum | None:
    """The sum over all sequences of `table`, at most `max_tokens` at a time; None once `stopped()`.

    `advance` is told how many sequences were done.
    """
    model.eval()
    total = LossSum(torch.zeros((), dtype=torch.float64), 0.0, 0, 0)
    for first in range(0, len(table), CHUNK):
        indices = np.arange(first, min(first + CHUNK, len(table)))
        for batch in micro_batches(table, indices, HELD_OUT_WEIGHTS, max_tokens):
            if stopped():
                return None
            part = loss_sum(model, to_device(batch, model.device))
            total += LossSum(part.nats.cpu().double(), part.weight, part.trained_tokens, part.tokens)
            advance(len(batch.lengths))
    return total
