"""Builds a model of a config, and fits it to a tokenizer: rows of embeddings and head, ids, settings of generation."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import ModelError


def build_from_config(config: PreTrainedConfig) -> PreTrainedModel:
    """A causal language model with random weights."""
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    return model


def build_without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    """The same on the meta device, where weights have shapes alone."""
    with torch.device("meta"):
        return build_from_config(config)


def fit_to_tokenizer(model: PreTrainedModel, tokenizer: DialogueTokenizer, *, has_new_rows: bool = False) -> None:
    """Gives the model rows for the tokens that were added to the tokenizer, its ids, and the settings of generation.

    `has_new_rows`: the added tokens have trained rows already. Raises `ModelError` for a token without a row.
    """
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    largest = max(tokenizer.hf_tokenizer.get_vocab().values())
    if largest >= max(len(tokenizer), embeddings.num_embeddings):
        raise ModelError(f"the tokenizer has the token id {largest:,}, but the model has no embedding for it")
    if has_new_rows and embeddings.num_embeddings < len(tokenizer):
        raise ModelError(
            f"the model has {embeddings.num_embeddings:,} rows, and its tokenizer {len(tokenizer):,} tokens: put the tokenizer "
            "that it was trained with next to it"
        )
    if tokenizer.added_tokens and not has_new_rows:
        _set_to_mean(model, tokenizer)
    model.config.bos_token_id = tokenizer.start_id
    model.config.eos_token_id = tokenizer.end_id
    _set_padding(model.config, tokenizer.pad_id)
    if model.config.model_type == "gpt2":
        model.config.n_ctx = model.config.n_positions  # which transformers no longer writes, and converters read
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        bos_token_id=tokenizer.start_id,
        eos_token_id=list(tokenizer.chat_format.ends),
        pad_token_id=tokenizer.pad_id,
        suppress_tokens=list(tokenizer.chat_format.suppressed) or None,
    )


def _set_padding(config: PreTrainedConfig, pad_id: int) -> None:
    """Sets the id of the padding, but where the model could not be built with it: XGLM has a position of that number."""
    before = config.pad_token_id
    config.pad_token_id = pad_id
    try:
        build_without_weights(config)
    except IndexError:
        config.pad_token_id = before


def limit_generation(model: PreTrainedModel, tokenizer: DialogueTokenizer, max_new_tokens: int | None) -> int | None:
    """Bounds what other programs generate with the saved model; returns its positions, None where it has no limit."""
    model.generation_config.max_new_tokens = max_new_tokens
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet has -1
        return None
    tokenizer.hf_tokenizer.model_max_length = positions
    return positions


@torch.no_grad()
def _set_to_mean(model: PreTrainedModel, tokenizer: DialogueTokenizer) -> None:
    """Starts the rows of added tokens, and those of no token, in embeddings and head at the mean of the rows before."""
    first_added = len(tokenizer) - tokenizer.added_tokens
    others = set(tokenizer.hf_tokenizer.get_vocab().values()) - set(tokenizer.new_token_ids)
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    embeddings: Any = model.get_input_embeddings()
    for layer in (embeddings, head):
        if layer is not None:
            rows = [row for row in range(first_added, len(layer.weight)) if row not in others]
            layer.weight[rows] = layer.weight[:first_added].mean(dim=0)
            if getattr(layer, "bias", None) is not None:
                layer.bias[rows] = layer.bias[:first_added].mean()
