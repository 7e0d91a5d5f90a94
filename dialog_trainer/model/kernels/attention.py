"""Causal attention of a packed batch: inside each sequence, nothing padded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch.amp import custom_bwd, custom_fwd
from torch.nn.functional import scaled_dot_product_attention

from dialog_trainer.model.kernels.activations import draw_noise_bits, keep_scale, keep_threshold

# Queries of one block, about: smaller blocks compute fewer scores that the causal mask hides, in more calls.
BLOCK_ROWS = 128


@dataclass(frozen=True, slots=True)
class Packing:
    """The lengths of the sequences of a packed batch, in order. A record: for a bare tuple torch would compile again each time.

    `offsets` `(S + 1,)` int32: the first token of each sequence, and the end of the last; None without `varlen_attn`.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor | None = None

    @classmethod
    def on(cls, device: torch.device, lengths: tuple[int, ...]) -> Packing:
        """Made once per batch: a copy to a GPU in each layer would make the host wait. `varlen_attn` needs Ampere or later."""
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            return cls(lengths)
        offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).pin_memory()
        return cls(lengths, offsets.to(device, non_blocking=True))


# Not compiled: its loop over the lengths is another one for each batch.
@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it untyped
def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function for transformers' `AttentionInterface`.

    `query` `(1, H, N, D)`, `key` and `value` `(1, K, N, D)`, where K divides H (grouped-query attention). The option
    `packing` (`Packing`) is required; `softcap` is refused; others are ignored. Returns `(1, N, H, D)` and None, as the
    interface asks. Raises `ValueError`.
    """
    if options.get("softcap") is not None:  # Gemma 2; with small weights the probe of logits would not notice
        raise ValueError("packed attention has no soft cap")
    packing: Packing = options["packing"]
    groups = query.shape[1] // key.shape[1]
    offsets = None if dropout or value.dtype == torch.float32 else packing.offsets
    in_blocks = dropout and query.device.type == "cpu" and torch.float64 not in (query.dtype, value.dtype)
    if groups > 1 and (offsets is not None or in_blocks):
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    # `squeeze`, not `[0]`: the gradient of the latter is filled with zeros and copied into.
    if offsets is not None:
        from torch.nn.attention.varlen import varlen_attn  # no CPU needs it, and it registers operators for a while

        # Under autocast rotary positions leave query and key in fp32.
        q, k, v = (tensor.squeeze(0).transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
        longest = max(packing.lengths)
        output: Any = varlen_attn(q, k, v, offsets, offsets, longest, longest, scale=scaling, window_size=(-1, 0))
        return output.unsqueeze(0), None
    if in_blocks:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        q, k, v = (tensor.squeeze(0).float() for tensor in (query, key, value))
        output = _DropoutAttention.apply(q, k, v, packing.lengths, dropout, scale)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return output.unsqueeze(0).to(value.dtype), None
    lengths = list(packing.lengths)
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=groups > 1)
        for q, k, v in zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


class _DropoutAttention(torch.autograd.Function):
    """Attention with dropout on the CPU, in fp32 under autocast too, a block of queries at a time.

    torch's own draws a number for each probability, saves more tensors, and computes the scores that the causal mask
    hides. Here the probabilities and the dropout mask are one saved tensor: the sign is the mask.

    Example, a query that sees three keys, dropout 0.25, which scales what stays by 4/3:

        probabilities         0.2    0.5    0.3
        sign of the noise      +      -      +      minus with a probability of 0.25
        signed (saved)        0.2   -0.5    0.3
        relu(signed)          0.2    0      0.3     after dropout: output = 4/3 (0.2 v0 + 0.3 v2)
        abs(signed)           0.2    0.5    0.3     before dropout: for the gradient of the softmax

    `query`, `key`, `value` are `(H, N, D)`; returns `(N, H, D)`.
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]  # no autocast inside
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: tuple[int, ...],
        dropout: float,
        scaling: float,
    ) -> torch.Tensor:
        heads, tokens, width = query.shape
        blocks = list(_split_into_blocks(lengths))
        sizes = [heads * _length(queries) * _length(keys) for queries, keys in blocks]
        # First the noise, shifted so that what `keep_threshold` drops is negative; then, block by block, the signed
        # probabilities in its place.
        signed = draw_noise_bits(sum(sizes)).to(query.dtype).sub_(keep_threshold(dropout) - 0.5)
        output = query.new_empty(tokens, heads, width)
        causal, scale = _causal_mask(-(-max(lengths) // 64) * 64), keep_scale(dropout)
        for (queries, keys), flat in zip(blocks, torch.split(signed, sizes), strict=True):
            block = flat.view(heads, _length(queries), _length(keys))
            mask = causal[queries.start - keys.start : queries.stop - keys.start, : _length(keys)]
            scores = torch.baddbmm(mask, query[:, queries], key[:, keys].transpose(1, 2), alpha=scaling)
            torch.copysign(scores.softmax(dim=-1), block, out=block)
            output[queries] = torch.bmm(block.relu(), value[:, keys]).transpose(0, 1)
        ctx.save_for_backward(query, key, value, signed)
        ctx.blocks, ctx.sizes, ctx.scaling, ctx.scale = blocks, sizes, scaling, scale
        return output.mul_(scale)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def backward(ctx: Any, output_grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, signed = ctx.saved_tensors
        heads, tokens, width = query.shape
        query_grad, key_grad, value_grad = (query.new_empty(tokens, heads, width) for _ in range(3))
        sequence_start = None
        for (queries, keys), flat in zip(reversed(ctx.blocks), reversed(signed.split(ctx.sizes)), strict=True):
            block = flat.view(heads, _length(queries), _length(keys))
            grad = output_grad[queries].transpose(0, 1) * ctx.scale
            # The gradient of a probability: 0 where it was dropped; then through the softmax.
            block_grad = torch.ops.aten.threshold_backward(torch.bmm(grad, value[:, keys].transpose(1, 2)), block, 0)
            block_grad = torch._softmax_backward_data(block_grad, block.abs(), -1, block.dtype)
            # In reverse the last block of a sequence, which sees all of its keys, comes first: it writes, the others add.
            put = torch.Tensor.copy_ if keys.start != sequence_start else torch.Tensor.add_
            sequence_start = keys.start
            query_grad[queries] = torch.bmm(block_grad, key[:, keys]).transpose(0, 1)
            put(key_grad[keys], torch.bmm(block_grad.transpose(1, 2), query[:, queries]).transpose(0, 1))
            put(value_grad[keys], torch.bmm(block.relu().transpose(1, 2), grad).transpose(0, 1))
        gradients = (query_grad.mul_(ctx.scaling), key_grad.mul_(ctx.scaling), value_grad)
        return *(gradient.transpose(0, 1) for gradient in gradients), None, None, None


@lru_cache(maxsize=8)
def _causal_mask(length: int) -> torch.Tensor:
    """`(L, L)`: 0 for a key that the query sees, -inf for a later one."""
    return torch.full((length, length), -torch.inf).triu_(1)


def _split_into_blocks(lengths: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yields the queries of each block, and the keys that they see: those of their sequence up to the last query.

    `BLOCK_ROWS` 3, lengths 5 and 1: `(0:3, 0:3)`, `(3:5, 0:5)`, `(5:6, 5:6)`.
    """
    first = 0
    for length in lengths:
        rows = -(-length // max(1, round(length / BLOCK_ROWS)))
        for start in range(0, length, rows):
            stop = first + min(start + rows, length)
            yield slice(first + start, stop), slice(first, stop)
        first += length


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
