"""Chunked linear + cross-entropy: never materializes the (tokens x vocabulary) logits; computes the gradient in the
forward pass.

Targets are projected to the vocabulary some rows at a time, and no logit is computed twice: while the probabilities of a
chunk exist, so does the gradient of its loss. Example, one target with hidden state h, W the `(V, D)` weight of the head:

    softmax(W h) = p = (0.2, 0.5, 0.3), target id 1, loss weight w = 0.5
    loss                   = w * -log p[1] = 0.35
    gradient of the logits = w (p - onehot) = (0.1, -0.25, 0.15)
    gradient of h          = w (p W - W[1])          a product, and the row of the target
    gradient of W          = p (w h)^T, and -w h added to row 1

So p is read as it is: neither a one-hot matrix nor a second `(M, V)` tensor is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

# Logits of one chunk. On the CPU two fp32 tensors of 64 MB: larger products are not faster. A GPU needs more to be busy.
CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 26}


# Ids `(K,)` of rows of a weight, and their values `(K, D)`, which the weight holds too.
Rows = tuple[torch.Tensor, torch.Tensor]


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    weights: torch.Tensor,
    rows: Rows | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(Σ w·nll, nll)` in nats: a scalar with a gradient, and `(M,)` float32 without one.

    `hidden` `(M, D)`, `weight` `(V, D)`, `bias` `(V,)` or None, `targets` `(M,)` int64, `weights` `(M,)` float32. Of a
    `weight` without a gradient the values of `rows` get that of their rows alone.
    """
    row_ids, row_values = rows or (None, None)
    total, nll = _LinearCrossEntropy.apply(hidden, weight, bias, targets, weights, row_ids, row_values)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return total, nll


@torch.no_grad()
def linear_token_nll(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """The `(M,)` float32 nats of the targets, without a gradient; arguments as in `linear_cross_entropy`."""
    dtype = _product_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        parts = [nll for _, nll, _ in _project_chunks(hidden.to(dtype), weight.to(dtype), bias, targets)]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def chunk_rows(vocabulary_size: int, device_type: str) -> int:
    """Targets of one chunk."""
    return max(1, CHUNK_LOGITS.get(device_type, CHUNK_LOGITS["cpu"]) // vocabulary_size)


def _project_chunks(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yields the rows, nats `(C,)` and probabilities `(C, V)` float32 of each chunk; the next chunk overwrites the latter."""
    size = min(chunk_rows(len(weight), hidden.device.type), len(targets))
    products = hidden.new_empty(size, len(weight))
    softmax = torch.empty_like(products, dtype=torch.float32)
    for first in range(0, len(targets), size or 1):
        rows = slice(first, first + size)
        states = hidden[rows]
        logits = torch.mm(states, weight.T, out=products[: len(states)]).float()
        if bias is not None:
            logits.add_(bias)
        probabilities = torch.softmax(logits, dim=1, out=softmax[: len(states)])
        # log Σ exp(logits) from the largest logit and its probability, without another exponential of each.
        log_sum = logits.amax(dim=1) - probabilities.amax(dim=1).log()
        yield rows, log_sum - logits.gather(1, targets[rows].unsqueeze(1)).squeeze(1), probabilities


def _is_known_to_be_one(gradient: torch.Tensor) -> bool:
    """False on a GPU, where reading the value would wait for it."""
    return gradient.device.type == "cpu" and float(gradient) == 1.0


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients of the module's example, for the chunks in turn; `backward` only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor,
        row_ids: torch.Tensor | None,
        row_values: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = _product_dtype(hidden)
        ctx.dtypes = hidden.dtype, weight.dtype
        nll = hidden.new_zeros(len(targets), dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            states, table = hidden.to(dtype), weight.to(dtype)
            hidden_grad = torch.empty_like(states) if ctx.needs_input_grad[0] else None
            weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] and len(targets) == 0 else None
            bias_grad = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
            values_grad = None if row_values is None else torch.zeros_like(row_values)
            for rows, chunk_nll, softmax in _project_chunks(states, table, bias, targets):
                nll[rows] = chunk_nll
                ids, row_weights = targets[rows], weights[rows].unsqueeze(1)
                probabilities = softmax.to(dtype)
                if hidden_grad is not None:
                    hidden_grad[rows] = (probabilities @ table - table[ids]) * row_weights
                if ctx.needs_input_grad[1]:
                    weighted = states[rows] * row_weights.to(dtype)
                    if weight_grad is None:  # the first chunk: no zeros to add to
                        weight_grad = (probabilities.T @ weighted).to(weight.dtype)
                    elif dtype == weight.dtype:
                        weight_grad.addmm_(probabilities.T, weighted)
                    else:
                        weight_grad += probabilities.T @ weighted
                    weight_grad.index_add_(0, ids, weighted.to(weight.dtype), alpha=-1)
                if values_grad is not None and row_ids is not None:
                    row_gradient = probabilities[:, row_ids] - torch.eq(ids.unsqueeze(1), row_ids).to(dtype)
                    values_grad += row_gradient.T @ (states[rows] * row_weights.to(dtype))
                if bias_grad is not None:
                    bias_grad += (softmax * row_weights).sum(0).to(bias_grad.dtype)
                    bias_grad.index_add_(0, ids, row_weights.squeeze(1).to(bias_grad.dtype), alpha=-1)
        gradients = hidden_grad, weight_grad, bias_grad, values_grad
        ctx.save_for_backward(*(gradient for gradient in gradients if gradient is not None))
        ctx.has_gradient = tuple(gradient is not None for gradient in gradients)
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, total_grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        gradients = [next(saved) if present else None for present in ctx.has_gradient]
        if not _is_known_to_be_one(total_grad):
            gradients = [None if one is None else one.mul_(total_grad.to(one.dtype)) for one in gradients]
        hidden_grad, weight_grad, bias_grad, values_grad = gradients
        hidden_dtype, _ = ctx.dtypes
        hidden_grad = None if hidden_grad is None else hidden_grad.to(hidden_dtype)
        return hidden_grad, weight_grad, bias_grad, None, None, None, values_grad
