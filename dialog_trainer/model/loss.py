"""The loss of a packed batch. The one place where labels are shifted: token `i` is predicted from the state at `i - 1`."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from dialog_trainer.model.adapters import trained_head_rows
from dialog_trainer.model.kernels.linear_cross_entropy import linear_cross_entropy, linear_token_nll
from dialog_trainer.model.packed_forward import packed_hidden_states, packed_logits
from dialog_trainer.types import NUM_TURN_BINS, Batch, LossSum, Role


def compute_loss(model: PreTrainedModel, batch: Batch) -> LossSum:
    """`Σ w·nll` in nats over the tokens of `batch` with a weight above 0, and their unweighted sums by role and turn.

    Without any such token the loss is a 0 that is still part of the graph.
    """
    targets = batch.targets
    weights = batch.weights[targets]
    if has_plain_head(model):
        total, nll = linear_cross_entropy(*_project_inputs(model, batch), weights, trained_head_rows(model))
    else:
        nll = _nll_from_logits(model, batch)
        total = (nll * weights).sum()
    return LossSum(total, sum_by_role_and_turn(nll.detach(), batch.roles[targets], batch.turns[targets]))


class PackedLoss(torch.nn.Module):
    """`compute_loss` as a module that DDP and FSDP can wrap: a batch -> `(nats, role_turn_sums)` of its `LossSum`."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        loss = compute_loss(self.model, batch)
        return loss.nats, loss.role_turn_sums


def token_losses(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """`(M,)` indices of the tokens of `batch` with a weight above 0, and the `(M,)` nats of each, without a gradient.

    Only the states before those tokens are projected to the vocabulary.
    """
    if has_plain_head(model):
        return batch.targets, linear_token_nll(*_project_inputs(model, batch))
    return batch.targets, _nll_from_logits(model, batch).detach()


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are the hidden states times the output embeddings, as `use_packed_attention` found."""
    return bool(getattr(model, "has_plain_head", False))


def _project_inputs(
    model: PreTrainedModel, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """The hidden states before the targets `(M, D)`, weight and bias of the head, and the target ids `(M,)`."""
    used = batch.targets - 1
    states = packed_hidden_states(model, batch.ids, batch.positions, batch.lengths, used)[used]
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    return states, head.weight, head.bias, batch.ids[batch.targets]


def _nll_from_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The slow path: the `(M, V)` logits exist at once."""
    logits = packed_logits(model, batch.ids, batch.positions, batch.lengths, batch.targets - 1)
    return cross_entropy(logits.float(), batch.ids[batch.targets], reduction="none")


def sum_by_role_and_turn(nll: torch.Tensor, roles: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """`(2, 5, NUM_TURN_BINS)`: sum and number of `nll` `(M,)` by role and turn index; the last bin holds all later turns."""
    bins = roles * NUM_TURN_BINS + turns.clamp(max=NUM_TURN_BINS - 1)
    sums = nll.new_zeros(2, len(Role) * NUM_TURN_BINS)
    sums.index_add_(1, bins, torch.stack([nll, torch.ones_like(nll)]))
    return sums.view(2, len(Role), NUM_TURN_BINS)
