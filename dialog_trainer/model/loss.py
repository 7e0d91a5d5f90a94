"""A packed batch -> its losses. The one place where labels are shifted."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from dialog_trainer.model.kernels.linear_cross_entropy import linear_cross_entropy, linear_token_nll
from dialog_trainer.model.packed_forward import packed_logits, packed_states
from dialog_trainer.types import NUM_TURN_BINS, Batch, LossSum, Role


def compute_loss(model: PreTrainedModel, batch: Batch) -> LossSum:
    """`Σ w·nll` in nats over the tokens of `batch` with a weight above 0, and their unweighted sums by role and turn.

    A batch in which nothing has weight gives a 0 that is still part of the graph.
    """
    targets, weights = batch.targets, batch.weights[batch.targets]
    if getattr(model, "has_plain_head", False):
        total, nll = linear_cross_entropy(*_to_project(model, batch, targets), weights)
    else:
        nll = _from_logits(model, batch, targets)
        total = (nll * weights).sum()
    return LossSum(total, sum_by_role_and_turn(nll.detach(), batch.roles[targets], batch.turns[targets]))


class PackedLoss(torch.nn.Module):
    """`loss_sum` of a model as a module from a batch to `(nats, cells)`: what can be spread over processes."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        found = compute_loss(self.model, batch)
        return found.nats, found.role_turn_sums


def token_losses(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices `(M,)` of the tokens of `batch` with a weight above 0, and the nats of each, without a gradient.

    Token `i` is predicted at index `i - 1`. Only those positions are projected to the vocabulary.
    """
    targets = batch.targets
    if not getattr(model, "has_plain_head", False):
        return targets, _from_logits(model, batch, targets).detach()
    return targets, linear_token_nll(*_to_project(model, batch, targets))


def _to_project(model: PreTrainedModel, batch: Batch, targets: torch.Tensor) -> tuple:
    """The hidden states before `targets`, weight and bias of the head, and the ids of `targets`."""
    states = packed_states(model, batch.ids, batch.positions, batch.lengths)[targets - 1]
    head = model.get_output_embeddings()
    return states, head.weight, head.bias, batch.ids[targets]


def _from_logits(model: PreTrainedModel, batch: Batch, targets: torch.Tensor) -> torch.Tensor:
    """The slow way, for a model whose logits are not its hidden states times its output embeddings."""
    logits = packed_logits(model, batch.ids, batch.positions, batch.lengths, at=targets - 1)
    return cross_entropy(logits.float(), batch.ids[targets], reduction="none")


def sum_by_role_and_turn(nll: torch.Tensor, roles: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The sum and the number of `nll` `(M,)` by role and by turn index: `(2, 5, NUM_DEPTHS)`."""
    places = roles * NUM_TURN_BINS + turns.clamp(max=NUM_TURN_BINS - 1)
    role_turn_sums = nll.new_zeros(2, len(Role) * NUM_TURN_BINS)
    role_turn_sums.index_add_(1, places, torch.stack([nll, torch.ones_like(nll)]))
    return role_turn_sums.view(2, len(Role), NUM_TURN_BINS)
