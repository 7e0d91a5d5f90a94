"""Settings -> built objects. Config ends here: what is built takes plain arguments."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from dialog_trainer.data import tables
from dialog_trainer.data.batches import micro_batches, to_device
from dialog_trainer.data.order import batch_indices, seed_of, steps_per_epoch
from dialog_trainer.data.tables import DialogueTable, TokenTable
from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.validation import ValidationSettings
from dialog_trainer.masking.schedules import MaskSchedule, progress_of
from dialog_trainer.model import causal_lm
from dialog_trainer.model.packed import use_packed_attention
from dialog_trainer.options import Settings
from dialog_trainer.records import Batch

Say = Callable[[str], None]
MAX_DEFAULT_WORKERS = 8
# What conf/config.yaml gives every choice of data; the other keys of the group are the source's own.
SHARED_DATA_KEYS = ("truncation", "workers", "cache_dir")


@dataclass(frozen=True, slots=True)
class Split:
    """One split, as text and as tokens."""

    dialogues: DialogueTable
    tokens: TokenTable


@dataclass(frozen=True, slots=True)
class Plan:
    """What training follows, as functions of the step."""

    learning_rate: Callable[[int], float]
    mask: MaskSchedule
    batches: Callable[[int], Iterator[Batch]]
    steps_per_epoch: int


def set_up_torch(deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def device(settings: Settings) -> torch.device:
    """The device of `device`. Raises `ConfigError` if it is not there."""
    wanted = settings["device"]
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    name = f"cuda:{wanted[0]}" if isinstance(wanted, list) else wanted
    count = torch.cuda.device_count()
    if name.startswith("cuda") and ((isinstance(wanted, list) and wanted[0] >= count) or not count):
        there = f"there are {count} CUDA devices" if count else "there is no CUDA device"
        raise ConfigError([f"device={settings['device']}: {there}; use device=auto or device=cpu"])
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["device=mps: this machine has none; use device=auto or device=cpu"])
    return torch.device(name)


def autocast(settings: Settings, on: torch.device) -> Callable[[], AbstractContextManager]:
    if settings["precision"] == "bf16":
        return partial(torch.autocast, on.type, dtype=torch.bfloat16)
    return contextlib.nullcontext


def dialogues(settings: Settings, split: str, say: Say) -> DialogueTable:
    own = {key: value for key, value in settings["data"].items() if key not in SHARED_DATA_KEYS}
    source = _function_of(own, "data", given=0)()
    return tables.open_dialogues(source, split, _cache_dir(settings), say)


def with_tokens(settings: Settings, table: DialogueTable, vocabulary: Vocabulary, truncation: str = "split") -> Split:
    """`truncation` is that of training for the training split; held-out dialogues are scored whole, in parts."""
    tokens = tables.open_tokens(
        table,
        vocabulary,
        max_len=settings["model"]["max_len"],
        truncation=truncation,
        workers=settings["data"]["workers"] or min(MAX_DEFAULT_WORKERS, os.cpu_count() or 1),
        cache_dir=_cache_dir(settings),
    )
    return Split(table, tokens)


def vocabulary(settings: Settings, training: DialogueTable, say: Say) -> Vocabulary:
    """The pretrained model's, or a BPE learned from the training split (once for the same dialogues and size)."""
    model = settings["model"]
    if model["pretrained_model"]:
        return Vocabulary.pretrained(model["pretrained_model"])
    folder = tables.vocabulary_folder(_cache_dir(settings), training, model["vocab_size"])
    if not folder.exists():
        say(f"learning a vocabulary of {model['vocab_size']:,} entries from the training dialogues")
        with tables.published(folder) as aside:
            Vocabulary.train(training.texts(), model["vocab_size"]).save(aside)
    return Vocabulary.pretrained(str(folder))


def model(settings: Settings, words: Vocabulary, on: torch.device, say: Say) -> PreTrainedModel:
    """A new model: pretrained or from scratch."""
    sizes = settings["model"]
    if sizes["pretrained_model"]:
        built = causal_lm.load(sizes["pretrained_model"], words, sizes["dropout"])
    else:
        built = causal_lm.from_scratch(
            words,
            layers=sizes["layers"],
            heads=sizes["heads"],
            width=sizes["width"],
            positions=sizes["positions"],
            dropout=sizes["dropout"] or 0.0,
            seed=seed_of("model", settings["seed"]),
        )
    return _ready(built, settings, on, say)


def saved_model(folder: Path, settings: Settings, on: torch.device, say: Say) -> tuple[PreTrainedModel, Vocabulary]:
    """Model and vocabulary of a checkpoint folder."""
    words = Vocabulary.pretrained(str(folder))
    return _ready(causal_lm.load(str(folder), words, settings["model"]["dropout"]), settings, on, say), words


def optimizer(settings: Settings, of: PreTrainedModel) -> torch.optim.Optimizer:
    node = {key: value for key, value in settings["optim"].items() if key != "lr0"}
    node |= {key: tuple(value) for key, value in node.items() if isinstance(value, list)}
    build = _function_of(node, "optim", lr=settings["optim"]["lr0"])
    try:
        return build(of.parameters())
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError([f"optim: {node['_target_']} refuses {build.keywords}: {error}"]) from None


def plan(settings: Settings, training: TokenTable, on: torch.device) -> Plan:
    """Learning rate, mask and batches of every step. `settings["schedule_steps"]` must be a number by now."""
    seed, batch_size, schedule_steps = settings["seed"], settings["batch_size"], settings["schedule_steps"]
    factor = _function_of(settings["scheduler"], "scheduler", schedule_steps=schedule_steps)
    mask = mask_schedule(settings)

    def batches(step: int) -> Iterator[Batch]:
        indices = batch_indices(seed, step, len(training), batch_size)
        weights = mask(progress_of(step, schedule_steps))
        for batch in micro_batches(training, indices, weights, settings["micro_batch_tokens"]):
            yield to_device(batch, on)

    lr0 = settings["optim"]["lr0"]
    return Plan(lambda step: lr0 * factor(step), mask, batches, steps_per_epoch(len(training), batch_size))


def mask_schedule(settings: Settings) -> MaskSchedule:
    return _function_of(
        settings["mask_schedule"], "mask_schedule", train_user_turn_mask_step=settings["train_user_turn_mask_step"]
    )


def validation_settings(settings: Settings) -> ValidationSettings:
    metrics = settings["metrics"]
    return ValidationSettings(
        names=tuple(metrics["names"]),
        max_dialogues=metrics["max_dialogues"],
        max_new_tokens=metrics["max_new_tokens"],
        window=settings["model"]["max_len"],
        batch_tokens=metrics["batch_tokens"],
        max_tokens=settings["micro_batch_tokens"],
    )


def _ready(built: PreTrainedModel, settings: Settings, on: torch.device, say: Say) -> PreTrainedModel:
    positions, max_len = causal_lm.positions(built), settings["model"]["max_len"]
    if positions is not None and max_len > positions:
        raise ConfigError([f"model.max_len={max_len}: the model has {positions} positions; use at most that"])
    built.to(on)
    if not use_packed_attention(built, max_len):
        say(f"{type(built).__name__} does not take packed attention: batches are padded, which is slower")
    return built


def _cache_dir(settings: Settings) -> Path:
    chosen = settings["data"]["cache_dir"]
    return (
        Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dialog_trainer"
    )


def _function_of(node: dict[str, Any], group: str, given: int = 1, **runtime: Any) -> Callable:
    """The function that `_target_` names (it was checked), with the other keys of `node` and what it asks of `runtime`.

    `given` is the number of arguments that it is called with.
    """
    function = _located(node["_target_"])
    keys = {key: value for key, value in node.items() if key != "_target_"}
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError([f"{group}._target_={node['_target_']}: cannot be called"]) from None
    asked = signature.parameters
    unknown = [key for key in keys if key not in asked or key in runtime]
    if unknown:
        raise ConfigError([f"{group}.{key}={keys[key]}: {node['_target_']} takes no {key}" for key in unknown])
    built = partial(function, **keys, **{key: value for key, value in runtime.items() if key in asked})
    try:
        signature.bind(*[None] * given, **built.keywords)
    except TypeError as error:
        raise ConfigError([f"{group}: {node['_target_']}: {error}"]) from None
    return built


def _located(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError([f"_target_={name}: cannot be imported: {error}"]) from None
