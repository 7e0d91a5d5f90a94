"""Gradient alignment: cosine between the gradients of the user's and the assistant's loss, over all weights and by layer.

Near 1, training on user turns helps the assistant; near 0, it neither helps nor harms; below 0, the two conflict.
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
    group with the group's name as suffix (`_embeddings`, `_block_00` ..., `_head`).

    The gradients are those of the mean loss of a role's tokens in `batches`, without dropout. The model is not changed:
    no weight, no `.grad`, no random generator. The cosine is 0 if a gradient is 0; the values are None if a gradient is
    not finite.
    """
    was_training = model.training
    model.train(False)
    try:
        user, assistant = (_gradient(model, batches, role) for role in (Role.USER, Role.ASSISTANT))
    finally:
        model.train(was_training)
    values: dict[str, float | None] = {}
    for group, names in {"": list(user), **_group_by_layer(model)}.items():
        dot = sum(float((user[name] * assistant[name]).sum()) for name in names)
        norms = [sum(float(grads[name].square().sum()) for name in names) ** 0.5 for grads in (user, assistant)]
        suffix = f"_{group}" if group else ""
        cosine = dot / (norms[0] * norms[1]) if all(norms) else 0.0
        finite = all(map(math.isfinite, (cosine, *norms)))
        for quantity, value in zip(("cosine", "user_norm", "assistant_norm"), (cosine, *norms), strict=True):
            values[f"alignment_{quantity}{suffix}"] = value if finite else None
    return values


def _gradient(model: PreTrainedModel, batches: Sequence[Batch], role: Role) -> dict[str, torch.Tensor]:
    """The gradient of the mean loss over the tokens of `role`, by name of the weight."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradient = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    tokens = max(1, sum(int((batch.roles == role).sum()) for batch in batches))
    for batch in batches:
        loss = compute_loss(model, batch.with_weights((batch.roles == role).to(batch.weights.dtype)))
        parts = torch.autograd.grad(loss.nats / tokens, list(parameters.values()), allow_unused=True)
        for name, part in zip(gradient, parts, strict=True):
            if part is not None:
                gradient[name] += part
    return gradient


def _group_by_layer(model: PreTrainedModel) -> dict[str, list[str]]:
    """Names of weights by group: the number in a name is that of its block; of the others, `embeddings` are the embedding
    tables (and a head tied to one), `head` is the rest: the output head and its norm."""
    tables = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    groups: dict[str, list[str]] = {}
    for name in (name for name, parameter in model.named_parameters() if parameter.requires_grad):
        number = next((part for part in name.split(".") if part.isdigit()), None)
        of_embeddings = name.rpartition(".")[0] in tables or name.startswith("lora_rows.embeddings.")
        other = "embeddings" if of_embeddings else "head"
        groups.setdefault(other if number is None else f"block_{int(number):02d}", []).append(name)
    return groups
