"""Attention of a packed batch: inside each sequence, causal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from dialog_trainer.model.kernels.activations import draw_noise_bits, keep_scale, keep_threshold

# About so many tokens look together: of fewer, less is computed that none of them may see, in more calls.
BLOCK_ROWS = 128


@dataclass(frozen=True, slots=True)
class Packing:
    """The lengths of the sequences of a packed batch, in their order. A record, for torch compiles anew for each tuple.

    `offsets` `(S + 1,)` int32: where each begins, and the end; None where there is no `varlen_attn`.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor | None = None

    @classmethod
    def on(cls, device: torch.device, lengths: tuple[int, ...]) -> Packing:
        """Made once a batch: a copy to a GPU for each layer would be waited for. `varlen_attn` is for Ampere and later."""
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            return cls(lengths)
        offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).pin_memory()
        return cls(lengths, offsets.to(device, non_blocking=True))


@torch.compiler.disable  # it runs over lengths that are others in each batch
def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    packing: Packing,
    softcap: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """The function of transformers' `AttentionInterface`. `query` `(1, H, N, D)`, `key` and `value` `(1, H or fewer, N, D)`.

    Returns `(1, N, H, D)` and None, as the interface asks.
    """
    if softcap is not None:  # Gemma 2 caps its scores; with small weights no probe would see the difference
        raise ValueError("packed attention does not cap its scores")
    groups = query.shape[1] // key.shape[1]
    in_one = packing.offsets is not None and not dropout and value.dtype != torch.float32
    own = dropout and query.device.type == "cpu" and query.dtype == value.dtype == torch.float32
    if groups > 1 and (in_one or own):
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    # Not `tensor[0]`, whose gradient is filled with zeros and copied into.
    if in_one:
        # Under autocast rotary positions leave fp32 behind.
        columns = (tensor.squeeze(0).transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
        longest = max(packing.lengths)
        places = (packing.offsets, packing.offsets, longest, longest)
        return varlen_attn(*columns, *places, scale=scaling, window_size=(-1, 0)).unsqueeze(0), None
    if own:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        rows = (tensor.squeeze(0) for tensor in (query, key, value))
        return _DroppedAttention.apply(*rows, packing.lengths, dropout, scale).unsqueeze(0), None
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=groups > 1)
        for q, k, v in zip(*(tensor.split(packing.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


@lru_cache(maxsize=8)
def _causal(length: int) -> torch.Tensor:
    """`(L, L)`: 0 where a token may look, -inf where not."""
    return torch.full((length, length), -torch.inf).triu_(1)


class _DroppedAttention(torch.autograd.Function):
    """With dropout torch's own attention on the CPU draws a number for each share, keeps more of them, and computes what
    no token may see.

    `query`, `key`, `value` `(H, N, D)`; returns `(N, H, D)`. A share is kept with a minus where dropout took it: `relu`
    drops, `abs` undoes that.
    """

    @staticmethod
    def forward(ctx, query, key, value, lengths, dropout, scaling):
        heads, tokens, width = query.shape
        blocks = list(_blocks(lengths))
        sizes = [heads * (stop - start) * stop for _, start, stop in blocks]
        shares = draw_noise_bits(sum(sizes)).to(query.dtype).sub_(keep_threshold(dropout) - 0.5)  # so far their signs
        output = query.new_empty(tokens, heads, width)
        causal, scale = _causal(-(-max(lengths) // 64) * 64), keep_scale(dropout)
        for (first, start, stop), share in zip(blocks, shares.split(sizes), strict=True):
            share = share.view(heads, stop - start, stop)
            rows, seen = slice(first + start, first + stop), slice(first, first + stop)
            q, k, v = query[:, rows], key[:, seen], value[:, seen]
            scores = torch.baddbmm(causal[start:stop, :stop], q, k.transpose(1, 2), alpha=scaling)
            torch.copysign(scores.softmax(dim=-1), share, out=share)
            output[rows] = torch.bmm(share.relu(), v).transpose(0, 1)
        ctx.save_for_backward(query, key, value, shares)
        ctx.blocks, ctx.sizes, ctx.scaling, ctx.scale = blocks, sizes, scaling, scale
        return output.mul_(scale)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, shares = ctx.saved_tensors
        heads, tokens, width = query.shape
        of_query, of_key, of_value = (query.new_empty(tokens, heads, width) for _ in range(3))
        sequence = None
        for (first, start, stop), share in zip(reversed(ctx.blocks), reversed(shares.split(ctx.sizes)), strict=True):
            share = share.view(heads, stop - start, stop)
            rows, seen = slice(first + start, first + stop), slice(first, first + stop)
            q, k, v = query[:, rows], key[:, seen], value[:, seen]
            out = gradient[rows].transpose(0, 1) * ctx.scale
            of_scores = torch.ops.aten.threshold_backward(torch.bmm(out, v.transpose(1, 2)), share, 0)
            of_scores = torch._softmax_backward_data(of_scores, share.abs(), -1, share.dtype)
            # The last block of a sequence, which sees all of its keys, comes first.
            put = torch.Tensor.copy_ if first != sequence else torch.Tensor.add_
            sequence = first
            of_query[rows] = torch.bmm(of_scores, k).transpose(0, 1)
            put(of_key[seen], torch.bmm(of_scores.transpose(1, 2), q).transpose(0, 1))
            put(of_value[seen], torch.bmm(share.relu().transpose(1, 2), out).transpose(0, 1))
        found = (of_query.mul_(ctx.scaling), of_key.mul_(ctx.scaling), of_value)
        return *(one.transpose(0, 1) for one in found), None, None, None


def _blocks(lengths: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Yields `(first, start, stop)`: where a sequence begins, and which of its tokens look, at those before `stop`."""
    first = 0
    for length in lengths:
        rows = -(-length // max(1, round(length / BLOCK_ROWS)))
        for start in range(0, length, rows):
            yield first, start, min(start + rows, length)
        first += length
