"""build.model."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
import numpy as np
import torch
from transformers import PreTrainedModel
from dialog_trainer.config.options import Settings
from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import ConfigError
from dialog_trainer.model.kernels.activations import fuse_activations
from dialog_trainer.model.loading import build_from_scratch
from dialog_trainer.model.loading import load_pretrained
from dialog_trainer.model.packed_forward import use_packed_attention
from dialog_trainer.training.memory import check_model_fits
from dialog_trainer.types import Say



def build_model(settings: Settings, words: DialogueTokenizer, on: torch.device, say: Say) -> PreTrainedModel:
    """A new model: pretrained or from scratch."""
    sizes = settings["model"]
    check = partial(check_model_fits, device=on, processes=collectives.local_size())
    if sizes["pretrained_model"]:
        built = load_pretrained(sizes["pretrained_model"], words, sizes["dropout"], check)
    else:
        built = build_from_scratch(
            words,
            layers=sizes["layers"],
            heads=sizes["heads"],
            width=sizes["width"],
            positions=sizes["positions"],
            dropout=sizes["dropout"] or 0.0,
            seed=derive_seed("model", settings["seed"]),
            check=check,
        )
    return _prepare(built, settings, on, say)


def load_saved_model(folder: Path, settings: Settings, on: torch.device, say: Say) -> tuple[PreTrainedModel, DialogueTokenizer]:
    """Model and vocabulary of a checkpoint folder."""
    words = DialogueTokenizer.pretrained(str(folder))
    return _prepare(load_pretrained(str(folder), words, settings["model"]["dropout"]), settings, on, say), words


def digest_weights(of: PreTrainedModel) -> str:
    """Nearly always another one for other weights: their sums, layer by layer."""
    sums = [float(parameter.detach().double().sum()) for parameter in of.parameters()]
    return hashlib.sha256(json.dumps(sums).encode("utf-8")).hexdigest()[:16]


def _prepare(built: PreTrainedModel, settings: Settings, on: torch.device, say: Say) -> PreTrainedModel:
    positions, max_len = getattr(built.config, "max_position_embeddings", None), settings["model"]["max_len"]
    if positions is not None and max_len > positions:
        raise ConfigError([f"model.max_len={max_len}: the model has {positions} positions; use at most that"])
    built.to(on)
    fuse_activations(built)
    if not use_packed_attention(built, max_len):
        say(f"{type(built).__name__} does not take packed attention: batches are padded, which is slower")
    elif not built.has_plain_head:
        say(
            f"{type(built).__name__} makes more of its logits than a product: the loss is made of all of them, which is slower"
        )
    if settings["activation_checkpointing"] and settings["mode"] in ("train", "resume"):
        if not built.supports_gradient_checkpointing:
            raise ConfigError([f"activation_checkpointing=true: {type(built).__name__} cannot; leave it out"])
        # The name of it changes with the versions of transformers.
        name = "activation" if hasattr(built, "activation_checkpointing_enable") else "gradient"
        getattr(built, f"{name}_checkpointing_enable")({"use_reentrant": False})
    return built
