"""The forward pass of a packed batch: no padding, attention inside each sequence.

The attention function is registered with transformers' `AttentionInterface` under the name `ATTENTION`. As no mask
function of that name is registered, transformers builds no mask; the lengths arrive as the keyword argument
`packing`, which a model's `forward` hands down to its attention layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, PreTrainedModel

from dialog_trainer.model.kernels.attention import Packing, packed_attention

ATTENTION = "dialog_trainer_packed"
# How far packed logits may be from the plain ones, as a share of the largest: rounding stays below a hundredth of it,
# a model that carries something from one sequence to the next does not.
TOLERANCE = 1e-4


AttentionInterface.register(ATTENTION, packed_attention)


def use_packed_attention(model: PreTrainedModel, longest: int = 8) -> bool:
    """Switches the model to packed attention if it can take it, and says whether it did; `model.has_plain_head` says
    whether its loss can do without logits.

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
            close = {"rtol": 0, "atol": TOLERANCE * float(expected.abs().max())}
            fits = torch.allclose(packed_logits(model, ids, positions, lengths, at), expected, **close)
            fits = fits and model.config._attn_implementation == ATTENTION
            # The logits are the hidden states times the output embeddings, and nothing more.
            model.has_plain_head = (
                fits
                and isinstance(head := model.get_output_embeddings(), torch.nn.Linear)
                and torch.allclose(head(packed_states(model, ids, positions, lengths)[at]), expected, **close)
            )
    except (TypeError, ValueError, RuntimeError, KeyError):
        fits = False
    if not fits:
        model.set_attn_implementation(plain)
        model.has_plain_head = False
    model.plain_attention = plain
    model.train(was_training)
    return fits


def packed_states(
    model: PreTrainedModel, ids: torch.Tensor, positions: torch.Tensor, lengths: tuple[int, ...]
) -> torch.Tensor:
    """Last hidden states `(N, D)` of a packed batch, for a model in packed attention.

    It is given embeddings: among ids transformers looks for padding, for which a GPU would be waited for.
    """
    embeddings = model.get_input_embeddings()(ids.unsqueeze(0))
    output = model.base_model(
        inputs_embeds=embeddings,
        position_ids=positions.unsqueeze(0),
        packing=Packing.on(ids.device, lengths),
        use_cache=False,
    )
    return output.last_hidden_state[0]


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
            packing=Packing.on(ids.device, lengths),
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
