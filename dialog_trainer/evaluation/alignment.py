"""Whether the user's and the assistant's loss want the same of the weights: the gradients of both, compared.

A cosine near 1: training on user turns helps the assistant; near 0: they do not touch; below 0: they fight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from dialog_trainer.model.loss import loss_sum
from dialog_trainer.records import Batch, Role


def alignment(model: PreTrainedModel, batches: Sequence[Batch]) -> dict[str, float]:
    """`alignment_cosine`, `alignment_user_norm` and `alignment_assistant_norm` over all weights, and each of them by
    group with the group's name behind it (`_embeddings`, `_block_00` ..., `_head`).

    The gradients are those of the mean loss of a role's tokens in `batches`, without dropout. Nothing of the model is
    changed: no weight, no `.grad`, no generator. A cosine with a gradient of 0 is 0.
    """
    was_training = model.training
    model.eval()
    try:
        user, assistant = (_gradient(model, batches, role) for role in (Role.USER, Role.ASSISTANT))
    finally:
        model.train(was_training)
    values: dict[str, float] = {}
    for group, members in {"": list(user), **_groups(model)}.items():
        dot = sum(float((user[name] * assistant[name]).sum()) for name in members)
        norms = [sum(float(of[name].square().sum()) for name in members) ** 0.5 for of in (user, assistant)]
        suffix = f"_{group}" if group else ""
        values[f"alignment_cosine{suffix}"] = dot / (norms[0] * norms[1]) if all(norms) else 0.0
        values[f"alignment_user_norm{suffix}"], values[f"alignment_assistant_norm{suffix}"] = norms
    return values


def _gradient(model: PreTrainedModel, batches: Sequence[Batch], role: Role) -> dict[str, torch.Tensor]:
    """By name of the weight."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    tokens = max(1, sum(int((batch.roles == role).sum()) for batch in batches))
    for batch in batches:
        part = loss_sum(model, dataclasses.replace(batch, weights=(batch.roles == role).to(batch.weights.dtype)))
        found = torch.autograd.grad(part.nats / tokens, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(total, found, strict=True):
            if gradient is not None:
                total[name] += gradient
    return total


def _groups(model: PreTrainedModel) -> dict[str, list[str]]:
    """Names of weights by layer: a number in a name is that of its block; before the first block are the embeddings
    (with them a head that is tied to them), after the last the head."""
    groups: dict[str, list[str]] = {}
    seen_block = False
    for name, _ in model.named_parameters():
        number = next((part for part in name.split(".") if part.isdigit()), None)
        seen_block = seen_block or number is not None
        group = f"block_{int(number):02d}" if number is not None else "head" if seen_block else "embeddings"
        groups.setdefault(group, []).append(name)
    return groups
