"""Attention of a packed batch: inside each sequence, causal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from dialog_trainer.model.fused import keep_mask


@dataclass(frozen=True, slots=True)
class Packing:
    """The lengths of the sequences of a packed batch, in their order. A record, for torch compiles anew for each tuple.

    `offsets` `(S + 1,)` int32, on a GPU alone: where each begins, and the end.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor | None = None

    @classmethod
    def on(cls, device: torch.device, lengths: tuple[int, ...]) -> Packing:
        """Made once a batch: a copy to a GPU for each layer would be waited for."""
        if device.type != "cuda":
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
    in_one = packing.offsets is not None and not dropout and query.dtype != torch.float32
    own = dropout and query.device.type == "cpu" and query.dtype == torch.float32
    if groups > 1 and (in_one or own):
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    if in_one:
        columns = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        longest = max(packing.lengths)
        places = (packing.offsets, packing.offsets, longest, longest)
        return varlen_attn(*columns, *places, scale=scaling, window_size=(-1, 0)).unsqueeze(0), None
    if own:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return _DroppedAttention.apply(query, key, value, packing.lengths, dropout, scale), None
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
    """With dropout torch's own attention on the CPU draws a number for each share, and keeps more of them."""

    @staticmethod
    def forward(ctx, query, key, value, lengths, dropout, scaling):
        heads = query.shape[1]
        output = query.new_empty(query.shape[2], heads, query.shape[3])
        causal = _causal(-(-max(lengths) // 64) * 64)
        kept, scale = keep_mask((sum(heads * length * length for length in lengths),), dropout)
        sizes = [heads * length * length for length in lengths]
        shares = []
        for (place, q, k, v), stays in zip(_sequences(lengths, query, key, value), kept.split(sizes), strict=True):
            length = q.shape[1]
            scores = torch.baddbmm(causal[:length, :length], q, k.transpose(1, 2), alpha=scaling)
            shares.append(scores.softmax(dim=-1))
            dropped = shares[-1] * stays.view(heads, length, length)
            output[place] = torch.bmm(dropped, v).mul_(scale).transpose(0, 1)
        ctx.save_for_backward(query, key, value, kept, *shares)
        ctx.lengths, ctx.scaling, ctx.scale = lengths, scaling, scale
        return output.unsqueeze(0)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, kept, *shares = ctx.saved_tensors
        heads = query.shape[1]
        found = [query.new_empty(query.shape[2], heads, query.shape[3]) for _ in range(3)]
        masks = kept.split([heads * length * length for length in ctx.lengths])
        parts = _sequences(ctx.lengths, query, key, value, gradient.transpose(1, 2))
        for (place, q, k, v, out), share, stays in zip(parts, shares, masks, strict=True):
            stays = stays.view(share.shape)
            out = out * ctx.scale
            of_scores = torch.bmm(out, v.transpose(1, 2)).mul_(stays)
            of_scores = torch._softmax_backward_data(of_scores, share, -1, share.dtype)
            found[0][place] = torch.bmm(of_scores, k).mul_(ctx.scaling).transpose(0, 1)
            found[1][place] = torch.bmm(of_scores.transpose(1, 2), q).mul_(ctx.scaling).transpose(0, 1)
            found[2][place] = torch.bmm((share * stays).transpose(1, 2), out).transpose(0, 1)
        return *(one.transpose(0, 1).unsqueeze(0) for one in found), None, None, None


def _sequences(lengths, *tensors):
    """Yields the place in the packed batch and the `(H, L, D)` of each sequence."""
    first = 0
    for length in lengths:
        place = slice(first, first + length)
        yield place, *(tensor[0, :, place] for tensor in tensors)
        first += length
