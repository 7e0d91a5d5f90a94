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
# How far packed logits may be from the plain ones, as a share of the largest: rounding stays below a hundredth of it,
# a model that carries something from one sequence to the next does not.
TOLERANCE = 1e-4


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
    softcap: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sequence. `query` `(1, H, N, D)`, `key` and `value` `(1, H or fewer, N, D)`.

    Returns `(1, N, H, D)` and None, as the interface asks.
    """
    if softcap is not None:  # Gemma 2 caps its scores; with small weights no probe would see the difference
        raise ValueError("packed attention does not cap its scores")
    grouped = query.shape[1] != key.shape[1]
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(*(tensor.split(sequence_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, packed_attention)


def use_packed_attention(model: PreTrainedModel, longest: int = 8) -> bool:
    """Switches the model to packed attention if it can take it, and says whether it did.

    A model can if a packed forward pass of two sequences gives the logits of the plain one. `longest` is the length
    of the longest sequence to come: the probe is as long, so that a model whose layers see a shorter window or chunk
    is found out.
    """
    plain = model.config._attn_implementation
    lengths = (3, longest)
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])
    ids = torch.arange(sum(lengths), device=model.device) % model.get_input_embeddings().num_embeddings
    at = torch.arange(1, len(ids), device=model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = torch.cat([model(input_ids=part.unsqueeze(0)).logits[0] for part in ids.split(lengths)])[at]
            model.set_attn_implementation(ATTENTION)  # models with an attention of their own stay as they are
            found = packed_logits(model, ids, positions, lengths, at)
        close = torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
        fits = close and model.config._attn_implementation == ATTENTION
    except (TypeError, ValueError, RuntimeError, KeyError):
        fits = False
    if not fits:
        model.set_attn_implementation(plain)
    model.plain_attention = plain
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
        model.set_attn_implementation(model.plain_attention)
    try:
        yield
    finally:
        if was == ATTENTION:
            model.set_attn_implementation(was)
