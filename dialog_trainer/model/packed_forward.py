"""Forward pass of a packed batch: no padding, attention inside each sequence.

The attention function is registered with transformers' `AttentionInterface` as `ATTENTION`. No mask function has that
name, so transformers builds no mask; the lengths reach the attention layers as the keyword argument `packing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, PreTrainedModel

from dialog_trainer.errors import ModelError
from dialog_trainer.model.kernels.attention import Packing, packed_attention
from dialog_trainer.model.last_block import last_block_options, restore_last_block, trim_last_block

ATTENTION = "dialog_trainer_packed"
# Largest difference between packed and padded logits, relative to the largest logit. Rounding stays below a hundredth of
# it; a model that carries something from one sequence to the next exceeds it.
TOLERANCE = 1e-4

AttentionInterface.register(ATTENTION, packed_attention)


def use_packed_attention(model: PreTrainedModel, longest: int = 8) -> bool:
    """Switches the model to packed attention if it supports it, and returns whether it does.

    It does if the packed logits of two sequences equal the padded ones. `longest` is the length of the longest sequence
    to come: the probe is as long, so that a sliding window or chunk shorter than that shows. Sets `model.has_plain_head`
    (the logits are the hidden states times the output embeddings, so that the loss needs no logits) and
    `model.padded_implementation` (the attention to return to), and trims the last block where that is exact.

    Raises `ModelError` for a model in which a later token changes an earlier logit, as in BERT: it would learn to copy.
    """
    padded = model.config._attn_implementation
    lengths = (3, longest)
    device, vocabulary_size = model.device, int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]  # an Embedding
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    ids = torch.arange(sum(lengths), device=device) % vocabulary_size
    indices = torch.arange(1, len(ids), device=device)
    was_training = model.training
    model.train(False)
    has_plain_head, causal = False, True
    try:
        with torch.no_grad():
            expected = _padded_logits(model, ids, lengths)[indices]
            tolerance = TOLERANCE * float(expected.abs().max())
            changed = _change_last_tokens(ids, lengths, vocabulary_size)
            same = (changed == ids)[indices]  # the logits of all tokens but the changed ones
            causal = torch.allclose(
                _padded_logits(model, changed, lengths)[indices][same], expected[same], rtol=0, atol=tolerance
            )
            model.set_attn_implementation(ATTENTION)  # a model with an attention of its own stays as it is
            logits = packed_logits(model, ids, positions, lengths, indices)
            supported = torch.allclose(logits, expected, rtol=0, atol=tolerance)
            supported = supported and model.config._attn_implementation == ATTENTION
            head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
            if supported and isinstance(head, torch.nn.Linear):
                logits = head(packed_hidden_states(model, ids, positions, lengths)[indices])
                has_plain_head = torch.allclose(logits, expected, rtol=0, atol=tolerance)
    except IndexError:
        raise ModelError(
            f"{type(model).__name__} fails on a sequence of {longest:,} tokens, as where it has fewer positions: use a smaller "
            "model.max_len"
        ) from None
    except (TypeError, ValueError, RuntimeError, KeyError):
        supported = has_plain_head = False
    if not causal:
        raise ModelError(
            f"{type(model).__name__} is not causal: a later token changes what it predicts before it, so that it would learn "
            "to copy; choose a model that was trained to generate text, as gpt2"
        )
    if not supported:
        model.set_attn_implementation(padded)
    model.has_plain_head = has_plain_head  # type: ignore[assignment]  # an attribute of our own
    model.padded_implementation = padded
    model.train(was_training)
    if supported:
        trim_where_exact(model)
    return supported


@torch.no_grad()
def trim_where_exact(model: PreTrainedModel) -> None:
    """Trims the last block if the states of every second position of a probe stay the same where only these are used."""
    if not trim_last_block(model):
        return
    lengths, was_training = (3, 5), model.training
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])
    used = torch.arange(0, sum(lengths), 2, device=model.device)
    probe = (model, positions + 1, positions, lengths)
    model.train(False)
    try:
        expected = packed_hidden_states(*probe)[used]
        found = packed_hidden_states(*probe, used)[used]
        exact = torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    except (TypeError, ValueError, RuntimeError, KeyError):
        exact = False
    if not exact:
        restore_last_block(model)
    model.train(was_training)


def _padded_logits(model: PreTrainedModel, ids: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    """Logits `(N, V)` of the sequences of `ids` `(N,)`, each read alone."""
    return torch.cat([model(input_ids=row.unsqueeze(0)).logits[0] for row in torch.split(ids, list(lengths))])


def _change_last_tokens(ids: torch.Tensor, lengths: tuple[int, ...], vocabulary_size: int) -> torch.Tensor:
    """`ids` with another token at the end of each sequence."""
    ends = torch.tensor(lengths, device=ids.device).cumsum(0) - 1
    changed = ids.clone()
    changed[ends] = (ids[ends] + vocabulary_size // 2) % vocabulary_size
    return changed


def packed_hidden_states(
    model: PreTrainedModel,
    ids: torch.Tensor,
    positions: torch.Tensor,
    lengths: tuple[int, ...],
    used: torch.Tensor | None = None,
) -> torch.Tensor:
    """Last hidden states `(N, D)` of a packed batch `ids`, `positions` `(N,)`, for a model in packed attention.

    `used` `(M,)`: the positions whose state is read; those of others may be anything. None: all are.
    The model gets embeddings: among ids transformers looks for padding, and the host would wait for a GPU.
    """
    embeddings = model.get_input_embeddings()(ids.unsqueeze(0))
    output = model.base_model(
        inputs_embeds=embeddings,
        position_ids=positions.unsqueeze(0),
        packing=Packing.on(ids.device, lengths),
        use_cache=False,
        **last_block_options(model, used),
    )
    states: torch.Tensor = output.last_hidden_state[0]
    return states


def packed_logits(
    model: PreTrainedModel,
    ids: torch.Tensor,
    positions: torch.Tensor,
    lengths: tuple[int, ...],
    indices: torch.Tensor,
) -> torch.Tensor:
    """Logits `(M, V)` at the `indices` `(M,)` of a packed batch; a model without packed attention gets padded rows."""
    logits: torch.Tensor
    if model.config._attn_implementation == ATTENTION:
        output = model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            packing=Packing.on(ids.device, lengths),
            logits_to_keep=indices,
            use_cache=False,
        )
        logits = output.logits[0]
        return logits
    rows = pad_sequence(list(torch.split(ids, list(lengths))), batch_first=True)
    attended = pad_sequence(list(torch.split(torch.ones_like(ids), list(lengths))), batch_first=True)
    logits = model(input_ids=rows, attention_mask=attended, use_cache=False).logits
    return logits[attended.bool()][indices]


@contextmanager
def padded_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model attends to padded rows, with a KV cache."""
    packed = model.config._attn_implementation == ATTENTION
    if packed:
        model.set_attn_implementation(str(model.padded_implementation))
    try:
        yield
    finally:
        if packed:
            model.set_attn_implementation(ATTENTION)
