"""Whether the user's and the assistant's loss want the same of the weights: the gradients of both, compared.

A cosine near 1: training on user turns helps the assistant; near 0: they do not touch; below 0: they fight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from dialog_trainer.model.loss import compute_loss
from dialog_trainer.types import Batch, Role


def measure_gradient_alignment(model: PreTrainedModel, batches: Sequence[Batch]) -> dict[str, float | None]:
    """`alignment_cosine`, `alignment_user_norm` and `alignment_assistant_norm` over all weights, and each of them by
    group with the group's name behind it (`_embeddings`, `_block_00` ..., `_head`).

    The gradients are those of the mean loss of a role's tokens in `batches`, without dropout. Nothing of the model is
    changed: no weight, no `.grad`, no generator. A cosine with a gradient of 0 is 0; where a gradient is not finite, the
    values are None.
    """
    was_training = model.training
    model.eval()
    try:
        user, assistant = (_gradient(model, batches, role) for role in (Role.USER, Role.ASSISTANT))
    finally:
        model.train(was_training)
    values: dict[str, float | None] = {}
    for group, members in {"": list(user), **_groups(model)}.items():
        dot = sum(float((user[name] * assistant[name]).sum()) for name in members)
        norms = [sum(float(of[name].square().sum()) for name in members) ** 0.5 for of in (user, assistant)]
        suffix = f"_{group}" if group else ""
        cosine = dot / (norms[0] * norms[1]) if all(norms) else 0.0
        finite = all(map(math.isfinite, (cosine, *norms)))
        for what, value in zip(("cosine", "user_norm", "assistant_norm"), (cosine, *norms), strict=True):
            values[f"alignment_{what}{suffix}"] = value if finite else None
    return values


def _gradient(model: PreTrainedModel, batches: Sequence[Batch], role: Role) -> dict[str, torch.Tensor]:
    """By name of the weight."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    tokens = max(1, sum(int((batch.roles == role).sum()) for batch in batches))
    for batch in batches:
        part = compute_loss(model, batch.with_weights((batch.roles == role).to(batch.weights.dtype)))
        found = torch.autograd.grad(part.nats / tokens, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(total, found, strict=True):
            if gradient is not None:
                total[name] += gradient
    return total


def _groups(model: PreTrainedModel) -> dict[str, list[str]]:
    """Names of weights by layer: a number in a name is that of its block; of the others, tables of embeddings (with them
    a head that is tied to one), and the rest: the head with its norm."""
    tables = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    groups: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        number = next((part for part in name.split(".") if part.isdigit()), None)
        other = "embeddings" if name.rpartition(".")[0] in tables else "head"
        groups.setdefault(other if number is None else f"block_{int(number):02d}", []).append(name)
    return groups
