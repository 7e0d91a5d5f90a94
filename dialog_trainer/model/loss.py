"""A packed batch -> `LossSum`. The one place where labels are shifted."""

from __future__ import annotations

from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from dialog_trainer.model.packed import packed_logits
from dialog_trainer.records import Batch, LossSum


def loss_sum(model: PreTrainedModel, batch: Batch) -> LossSum:
    """`Σ w·nll` in nats over the tokens of `batch` with a weight above 0.

    Token `i` is predicted at index `i - 1`. Only those positions are projected to the vocabulary. A batch in which
    nothing has weight gives a 0 that is still part of the graph.
    """
    targets = batch.weights.nonzero().squeeze(1)
    logits = packed_logits(model, batch.ids, batch.positions, batch.lengths, at=targets - 1)
    nll = cross_entropy(logits.float(), batch.ids[targets], reduction="none")
    weights = batch.weights[targets]
    return LossSum((nll * weights).sum(), float(weights.sum()), len(targets), len(batch.ids))
