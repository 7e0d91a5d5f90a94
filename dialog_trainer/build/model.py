"""The model of a configuration, new or from a checkpoint, ready for its device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from dialog_trainer.build.data import check_replying_roles, make_chat_format
from dialog_trainer.config.schema import Config
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import ConfigError
from dialog_trainer.files import sha256_of_texts
from dialog_trainer.model.adapters import LoraAdapter, add_lora
from dialog_trainer.model.fitting import limit_generation
from dialog_trainer.model.kernels.activations import fuse_activations
from dialog_trainer.model.loading import build_from_scratch, describe_conversion, load_pretrained
from dialog_trainer.model.packed_forward import use_packed_attention
from dialog_trainer.seeds import derive_seed
from dialog_trainer.training.checkpoint import find_base
from dialog_trainer.training.memory import check_model_fits
from dialog_trainer.training.saved_state import SavedState, read_state
from dialog_trainer.types import Say


def build_model(config: Config, tokenizer: DialogueTokenizer, device: torch.device, say: Say) -> PreTrainedModel:
    """A new model: pretrained or from scratch."""
    options = config.model
    check = partial(check_model_fits, device=device, processes=collectives.local_size())
    if options.pretrained_model:
        model = load_pretrained(options.pretrained_model, tokenizer, options.dropout, check, pickles=True)
        change = describe_conversion(options.pretrained_model)
        if change:
            say(f"note: {change}")
    else:
        model = build_from_scratch(
            tokenizer,
            layers=options.sizes.layers,
            heads=options.sizes.heads,
            width=options.sizes.width,
            positions=options.sizes.positions,
            dropout=options.dropout or 0.0,
            seed=derive_seed("model", config.seed),
            check=check,
        )
    if options.adapter.is_lora:
        _add_adapter(model, config, tokenizer.new_token_ids)
    return _prepare(model, tokenizer, config, device, say)


def load_saved_model(
    folder: Path, config: Config, device: torch.device, say: Say
) -> tuple[PreTrainedModel, DialogueTokenizer]:
    """Model and vocabulary of a checkpoint folder `<run>/weights/<name>`; of an adapter the model is that in `<run>/base`."""
    tokenizer = DialogueTokenizer.pretrained(str(folder), make_chat_format(config))
    if config.command.scores:
        check_replying_roles(config, tokenizer.chat_format)
    if config.model.adapter.is_lora:
        base, state = _find_base(folder)
        model = load_pretrained(str(base), tokenizer, config.model.dropout)
        _add_adapter(model, config, state.new_token_ids).load(folder)
    else:
        model = load_pretrained(str(folder), tokenizer, config.model.dropout)
    return _prepare(model, tokenizer, config, device, say), tokenizer


def load_base_model(
    folder: Path, config: Config, tokenizer: DialogueTokenizer, device: torch.device, say: Say
) -> PreTrainedModel:
    """The model that the adapter in a checkpoint folder belongs to, without it."""
    model = load_pretrained(str(_find_base(folder)[0]), tokenizer, config.model.dropout)
    return _prepare(model, tokenizer, config, device, say)


def _find_base(checkpoint: Path) -> tuple[Path, SavedState]:
    run = checkpoint.parents[1]
    state = read_state(run, checkpoint.relative_to(run).as_posix())
    return find_base(run, state.base), state


def _add_adapter(model: PreTrainedModel, config: Config, new_ids: Sequence[int]) -> LoraAdapter:
    options = config.model.adapter
    return add_lora(
        model,
        rank=options.rank or 1,
        alpha=options.alpha or 1.0,
        dropout=options.dropout or 0.0,
        targets=options.targets or (),
        new_ids=new_ids,
        seed=derive_seed("adapter", config.seed),
    )


def digest_weights(model: PreTrainedModel) -> str:
    """A digest of the sum of each parameter; different weights almost always give a different one."""
    sums = [float(parameter.detach().double().sum()) for parameter in model.parameters()]
    return sha256_of_texts(json.dumps(sums))[:16]


def _prepare(
    model: PreTrainedModel, tokenizer: DialogueTokenizer, config: Config, device: torch.device, say: Say
) -> PreTrainedModel:
    max_len = config.model.max_len
    positions = limit_generation(model, tokenizer, config.metrics.generation.max_new_tokens)
    if positions and max_len > positions:
        raise ConfigError([f"model.max_len={max_len}: the model has {positions} positions; use at most that"])
    model.to(device)  # type: ignore[arg-type]  # the stub of transformers wraps the method without its self
    fuse_activations(model)
    if not use_packed_attention(model, max_len):
        say(f"{type(model).__name__} does not take packed attention: batches are padded, which is slower")
    elif not model.has_plain_head:
        say(
            f"{type(model).__name__} does not compute its logits as hidden states times output embeddings: the full logits are built, which is slower"
        )
    if config.activation_checkpointing and config.command.trains:
        if not model.supports_gradient_checkpointing:
            raise ConfigError([f"activation_checkpointing=true: {type(model).__name__} cannot; leave it out"])
        # The name of it changes with the versions of transformers.
        name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    return model
