"""The forward pass of a packed batch: no padding, attention inside each sequence.

The attention function is registered with transformers' `AttentionInterface` under the name `ATTENTION`. As no mask
function of that name is registered, transformers builds no mask; the lengths arrive as the keyword argument
`sequence_lengths`, which a model's `forward` hands down to its attention layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, PreTrainedModel

ATTENTION = "dialog_trainer_packed"
PADDED_ATTENTION = "sdpa"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    sequence_lengths: tuple[int, ...],
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sequence. `query` `(1, H, N, D)`, `key` and `value` `(1, H or fewer, N, D)`.

    Returns `(1, N, H, D)` and None, as the interface asks.
    """
    grouped = query.shape[1] != key.shape[1]
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(*(tensor.split(sequence_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, packed_attention)


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Switches the model to packed attention if it can take it, and says whether it did.

    A model can if a packed forward pass of two short sequences gives the logits of the plain one.
    """
    plain = model.config._attn_implementation
    ids = torch.arange(6, device=model.device).unsqueeze(0)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = torch.cat([model(input_ids=part).logits for part in (ids[:, :2], ids[:, 2:])], dim=1)
            model.set_attn_implementation(ATTENTION)
            positions = torch.tensor([0, 1, 0, 1, 2, 3], device=model.device)
            found = packed_logits(model, ids[0], positions, (2, 4), torch.arange(6, device=model.device))
        fits = torch.allclose(found, expected[0], rtol=1e-3, atol=1e-3)
    except (TypeError, ValueError, RuntimeError, KeyError):
        fits = False
    if not fits:
        model.set_attn_implementation(plain)
    model.train(was_training)
    return fits


def packed_logits(
    model: PreTrainedModel,
    ids: torch.Tensor,
    positions: torch.Tensor,
    lengths: tuple[int, ...],
    at: torch.Tensor,
) -> torch.Tensor:
    """Logits `(M, V)` at the indices `at` `(M,)` of a packed batch `ids`, `positions` `(N,)`."""
    if model.config._attn_implementation == ATTENTION:
        output = model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            sequence_lengths=lengths,
            logits_to_keep=at,
            use_cache=False,
        )
        return output.logits[0]
    rows = pad_sequence(ids.split(lengths), batch_first=True)
    real = pad_sequence(torch.ones_like(ids).split(lengths), batch_first=True)
    logits = model(input_ids=rows, attention_mask=real, use_cache=False).logits
    return logits[real.bool()][at]


@contextmanager
def padded_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model attends the ordinary, padded way, with a cache."""
    was = model.config._attn_implementation
    if was == ATTENTION:
        model.set_attn_implementation(PADDED_ATTENTION)
    try:
        yield
    finally:
        if was == ATTENTION:
            model.set_attn_implementation(was)
