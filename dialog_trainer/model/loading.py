"""Loads a pretrained model or builds one from scratch, and fits it to a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from dialog_trainer.data.tokenizer import DialogueTokenizer, loading_error
from dialog_trainer.errors import ModelError

MAX_CONFIG_BYTES = 2**20
# A model may have fewer tensors than layers or experts, but not many fewer.
MANY_LAYERS = 1024
# Words in the names of numbers of modules (`attention_types` of GPT-Neo holds some).
_COUNTS = ("layer", "expert", "types")


def load_pretrained(
    name_or_folder: str,
    tokenizer: DialogueTokenizer,
    dropout: float | None,
    check: Callable[[int], None] | None = None,
) -> PreTrainedModel:
    """The fp32 model of a hub id or folder, with embeddings for the tokens that were added to the tokenizer.

    `dropout` replaces each dropout probability of the model's config (None keeps them). `check` gets the number of
    weights before they are loaded, and raises where they do not fit. Raises `ModelError`.
    """
    folder = Path(name_or_folder)
    _check_config(folder)
    try:
        config = AutoConfig.from_pretrained(name_or_folder, trust_remote_code=False)
        weights = _count_weights(config)
    except Exception as error:  # a config may hold anything
        raise loading_error(name_or_folder, error) from None
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if stored and weights > stored:  # no type of weights has less than a byte for each
        raise ModelError(f"{folder / 'config.json'} asks for {weights:,} weights, and the files have {stored:,} bytes")
    if dropout is not None:
        _set_dropout(config, dropout)
    if check:  # outside of `try`: its errors are not those of the model
        check(weights)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name_or_folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # the hub's client raises many kinds; all mean that there is no model
        raise loading_error(name_or_folder, error) from None
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        raise ModelError(
            f"{name_or_folder} has no weights for {missing[0]} (and {len(missing) - 1} others): they would be random"
        )
    _fit_to_tokenizer(model, tokenizer)
    return model


def build_from_scratch(
    tokenizer: DialogueTokenizer,
    *,
    layers: int,
    heads: int,
    width: int,
    positions: int,
    dropout: float,
    seed: int,
    check: Callable[[int], None] | None = None,
) -> PreTrainedModel:
    """A GPT-2 (Radford et al. 2019) with random weights that depend on `seed` alone; `check` as in `load_pretrained`.

    Raises `ModelError`.
    """
    if width % heads:
        raise ModelError(f"model.width={width} is not a multiple of model.heads={heads}")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        # GPT-2's 0.02 is meant for a width of 768; narrower models learn faster from a wider distribution.
        initializer_range=0.02 * (768 / width) ** 0.5,
        bos_token_id=tokenizer.cls_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
    )
    _set_dropout(config, dropout)  # each key, as a resume does
    if check:
        check(_count_weights(config))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _from_config(config)
    _fit_to_tokenizer(model, tokenizer)
    return model


def _from_config(config: PreTrainedConfig) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    return model


def _check_config(folder: Path) -> None:
    """Refuses a `config.json` whose numbers of layers would keep transformers busy for hours. Raises `ModelError`."""
    path = folder / "config.json"
    if not path.is_file():
        return
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(
            f"{path} has {path.stat().st_size:,} bytes; the config of a model has less than {MAX_CONFIG_BYTES:,}"
        )
    try:
        config = json.loads(path.read_bytes())
        tensors = sum(map(_count_tensors, folder.glob("*.safetensors")))
    except (ValueError, RecursionError, OSError, SafetensorError):
        return  # transformers says what is wrong with it
    for key, value in _list_numbers(config):
        if any(word in key for word in _COUNTS) and value > max(tensors, MANY_LAYERS):
            raise ModelError(f"{path}: {key}={value:,} is more than the {tensors:,} tensors of its weights")


def _count_tensors(file: Path) -> int:
    with safe_open(file, "pt") as tensors:
        return len(list(tensors.keys()))


def _list_numbers(config: object, key: str = "") -> Iterator[tuple[str, int]]:
    """Keys and whole numbers of a config, those of its lists and inner configs too."""
    if isinstance(config, int):
        yield key, config
    elif isinstance(config, dict):
        for name, value in config.items():
            yield from _list_numbers(value, name)
    elif isinstance(config, list):
        for value in config:
            yield from _list_numbers(value, key)


def _count_weights(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in _from_config(config).parameters())


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Sets every key that names a dropout probability: `resid_pdrop`, `attention_dropout`, `embed_dropout` ..."""
    for key, value in vars(config).items():
        if "drop" in key and "layerdrop" not in key and type(value) in (int, float):
            setattr(config, key, dropout)


def _fit_to_tokenizer(model: PreTrainedModel, tokenizer: DialogueTokenizer) -> None:
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    largest = max(tokenizer.hf_tokenizer.get_vocab().values())
    if largest >= max(len(tokenizer), embeddings.num_embeddings):
        raise ModelError(f"the tokenizer has the token id {largest:,}, but the model has no embedding for it")
    if tokenizer.added_tokens:
        _set_to_mean(model, len(tokenizer) - tokenizer.added_tokens)
    model.config.bos_token_id = tokenizer.cls_id
    model.config.eos_token_id = tokenizer.end_id
    model.config.pad_token_id = tokenizer.pad_id
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        bos_token_id=tokenizer.cls_id,
        eos_token_id=[tokenizer.sep_id, tokenizer.end_id],
        pad_token_id=tokenizer.pad_id,
        suppress_tokens=[tokenizer.cls_id, tokenizer.pad_id],
        do_sample=False,
    )


@torch.no_grad()
def _set_to_mean(model: PreTrainedModel, first_added: int) -> None:
    """Starts the embeddings, and the rows of the head, of added tokens at the mean of the others."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    embeddings: Any = model.get_input_embeddings()
    for layer in (embeddings, head):
        if layer is not None:
            layer.weight[first_added:] = layer.weight[:first_added].mean(dim=0)
            if getattr(layer, "bias", None) is not None:
                layer.bias[first_added:] = layer.bias[:first_added].mean()
