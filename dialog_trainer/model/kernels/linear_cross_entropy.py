"""Hidden states -> the loss of each target: the vocabulary is projected to in chunks, and the gradient made on the way.

No tensor of all targets by all words exists, and no logit is computed twice. The gradient of the logits of a target is
`w (p - onehot)`: with `w` on the side of the hidden states and the one-hot part as a lookup, `p` is read and never
written again.
"""

from __future__ import annotations

import torch

# Logits that exist at once: twice 64 MB on the CPU, where larger products are not faster; a GPU would have little to do.
CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 26}


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`Σ w·nll`, which has a gradient, and the `(M,)` nats of the targets, which have none.

    `hidden` `(M, D)`, `weight` `(V, D)`, `bias` `(V,)` or None, `targets` `(M,)` int64, `weights` `(M,)` float32.
    """
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, weights)


@torch.no_grad()
def linear_token_nll(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """The `(M,)` nats of the targets, without a gradient."""
    dtype = _dtype_of_products(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        found = [nll for _, nll, _ in _chunks(hidden.to(dtype), weight.to(dtype), bias, targets)]
    return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)


def _dtype_of_products(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def chunk_rows(words: int, kind: str) -> int:
    """Targets that a kind of device projects to so many words at once."""
    return max(1, CHUNK_LOGITS.get(kind, CHUNK_LOGITS["cpu"]) // words)


def _chunks(hidden, weight, bias, targets):
    """Yields the place, the nats and the probabilities `(C, V)`, float32, of each chunk of targets. Those of the one before
    are then overwritten."""
    rows = min(chunk_rows(len(weight), hidden.device.type), len(targets))
    products = hidden.new_empty(rows, len(weight))
    all_probabilities = torch.empty_like(products, dtype=torch.float32)
    for first in range(0, len(targets), rows or 1):
        place = slice(first, first + rows)
        own = hidden[place]
        logits = torch.mm(own, weight.T, out=products[: len(own)]).float()
        if bias is not None:
            logits.add_(bias)
        probabilities = torch.softmax(logits, dim=1, out=all_probabilities[: len(own)])
        # The likeliest word's logit and probability give the logarithm of the sum without another exponential.
        log_sum = logits.amax(dim=1) - probabilities.amax(dim=1).log()
        yield place, log_sum - logits.gather(1, targets[place].unsqueeze(1)).squeeze(1), probabilities


def _is_known_to_be_one(gradient: torch.Tensor) -> bool:
    """A GPU is not asked: it would have to be waited for."""
    return gradient.device.type == "cpu" and float(gradient) == 1.0


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights):
        dtype = _dtype_of_products(hidden)
        ctx.dtypes = hidden.dtype, weight.dtype
        nll = hidden.new_zeros(len(targets), dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            states, table = hidden.to(dtype), weight.to(dtype)
            of_hidden = torch.empty_like(states) if ctx.needs_input_grad[0] else None
            of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] and len(targets) == 0 else None
            of_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
            for place, found, probabilities in _chunks(states, table, bias, targets):
                nll[place] = found
                scale = weights[place].unsqueeze(1)
                shares = probabilities.to(dtype)
                if of_hidden is not None:
                    of_hidden[place] = (shares @ table - table[targets[place]]) * scale
                if ctx.needs_input_grad[1]:
                    scaled = states[place] * scale.to(dtype)
                    if of_weight is None:
                        of_weight = (shares.T @ scaled).to(weight.dtype)
                    elif dtype == weight.dtype:
                        of_weight.addmm_(shares.T, scaled)
                    else:
                        of_weight += shares.T @ scaled
                    of_weight.index_add_(0, targets[place], scaled.to(weight.dtype), alpha=-1)
                if of_bias is not None:
                    of_bias += (probabilities * scale).sum(0).to(bias.dtype)
                    of_bias.index_add_(0, targets[place], scale.squeeze(1).to(bias.dtype), alpha=-1)
        ctx.save_for_backward(*(gradient for gradient in (of_hidden, of_weight, of_bias) if gradient is not None))
        ctx.given = tuple(gradient is not None for gradient in (of_hidden, of_weight, of_bias))
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx, gradient, _):
        saved = iter(ctx.saved_tensors)
        found = [next(saved) if given else None for given in ctx.given]
        if not _is_known_to_be_one(gradient):
            found = [None if one is None else one.mul_(gradient.to(one.dtype)) for one in found]
        if found[0] is not None:
            found[0] = found[0].to(ctx.dtypes[0])
        return *found, None, None
