"""Settings -> built objects. Config ends here: what is built takes plain arguments."""

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

from dialog_trainer.data import tables
from dialog_trainer.data.batches import micro_batches, to_device
from dialog_trainer.data.order import batch_indices, seed_of, share, steps_per_epoch
from dialog_trainer.data.tables import DialogueTable, TokenTable
from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.distributed import group
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.held_out import every_turn
from dialog_trainer.masking import contract
from dialog_trainer.masking.mask import Mask
from dialog_trainer.masking.outline import Outline
from dialog_trainer.masking.schedules import RoleWeights, progress_of
from dialog_trainer.model import causal_lm
from dialog_trainer.model.fused import use_fused
from dialog_trainer.model.packed import use_packed_attention
from dialog_trainer.options import DATA_KEYS, MASK_KEYS, Settings
from dialog_trainer.records import Batch, Role
from dialog_trainer.training.memory import check_room

Say = Callable[[str], None]
MAX_DEFAULT_WORKERS = 8
# Tokens of the held-out dialogues on which the gradients of the two roles are compared.
PROBE_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Split:
    """One split, as text and as tokens."""

    dialogues: DialogueTable
    tokens: TokenTable


@dataclass(frozen=True, slots=True)
class Plan:
    """What training follows, as functions of the step."""

    learning_rate: Callable[[int], float]
    role_weights: Callable[[int], RoleWeights]
    batches: Callable[[int], Iterator[Batch]]
    steps_per_epoch: int


def dialogues(settings: Settings, split: str, say: Say) -> DialogueTable:
    own = {key: value for key, value in settings["data"].items() if key not in DATA_KEYS}
    source = _function_of(own, "data", given=0)()
    return tables.open_dialogues(source, split, cache_dir(settings), say)


def with_tokens(settings: Settings, table: DialogueTable, tokenizer: Vocabulary, truncation: str = "split") -> Split:
    """`truncation` is that of training for the training split; held-out dialogues are scored whole, in parts."""
    tokens = tables.open_tokens(
        table,
        tokenizer,
        max_len=settings["model"]["max_len"],
        truncation=truncation,
        workers=settings["data"]["workers"] or min(MAX_DEFAULT_WORKERS, os.cpu_count() or 1),
        cache_dir=cache_dir(settings),
    )
    return Split(table, tokens)


def tokenizer(settings: Settings, training: DialogueTable, say: Say) -> Vocabulary:
    """The pretrained model's, or a BPE learned from the training split (once for the same dialogues and size)."""
    model = settings["model"]
    if model["pretrained_model"]:
        return Vocabulary.pretrained(model["pretrained_model"])
    size = model["vocab_size"]

    def learn(aside: Path) -> None:
        say(f"learning a vocabulary of {size:,} entries from the training dialogues")
        Vocabulary.train(training.texts(), size).save(aside)

    folder = cache_dir(settings) / f"vocabulary-{tables.key_of(tables.FORMAT, training.digest, size)}"
    return Vocabulary.pretrained(str(tables.written_once(folder, learn)))


def model(settings: Settings, words: Vocabulary, on: torch.device, say: Say) -> PreTrainedModel:
    """A new model: pretrained or from scratch."""
    sizes = settings["model"]
    check = partial(check_room, on=on, processes=group.local_size())
    if sizes["pretrained_model"]:
        built = causal_lm.load(sizes["pretrained_model"], words, sizes["dropout"], check)
    else:
        built = causal_lm.from_scratch(
            words,
            layers=sizes["layers"],
            heads=sizes["heads"],
            width=sizes["width"],
            positions=sizes["positions"],
            dropout=sizes["dropout"] or 0.0,
            seed=seed_of("model", settings["seed"]),
            check=check,
        )
    return _ready(built, settings, on, say)


def saved_model(folder: Path, settings: Settings, on: torch.device, say: Say) -> tuple[PreTrainedModel, Vocabulary]:
    """Model and vocabulary of a checkpoint folder."""
    words = Vocabulary.pretrained(str(folder))
    return _ready(causal_lm.load(str(folder), words, settings["model"]["dropout"]), settings, on, say), words


def weights_digest(of: PreTrainedModel) -> str:
    """Nearly always another one for other weights: their sums, layer by layer."""
    sums = [float(parameter.detach().double().sum()) for parameter in of.parameters()]
    return hashlib.sha256(json.dumps(sums).encode("utf-8")).hexdigest()[:16]


def optimizer(settings: Settings, of: PreTrainedModel) -> torch.optim.Optimizer:
    node = {key: value for key, value in settings["optim"].items() if key != "lr0"}
    node |= {key: tuple(value) for key, value in node.items() if isinstance(value, list)}
    # One pass over weights, gradient and state, where the class knows it and no other way is asked for.
    one_pass = {} if {"fused", "foreach"} & node.keys() else {"fused": True}
    build = _function_of(node, "optim", lr=settings["optim"]["lr0"], **one_pass)
    try:
        return build(of.parameters())
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError([f"optim: {node['_target_']} refuses {build.keywords}: {error}"]) from None


def mask(settings: Settings) -> Mask:
    node = settings["mask_schedule"]
    own = {key: value for key, value in node.items() if key not in MASK_KEYS}
    schedule = _function_of(own, "mask_schedule", train_user_turn_mask_step=settings["train_user_turn_mask_step"])
    made = schedule(0.0)
    if not isinstance(made, RoleWeights):
        raise ConfigError(
            [f"mask_schedule: {node['_target_']} gives {made!r}, where a schedule gives RoleWeights(user, assistant)"]
        )
    return Mask(schedule, Role[node["trained_role"].upper()], node["last_turn_only"], node["normalize"])


def checked_mask(
    settings: Settings, split: Split, words: Vocabulary, of: Mask, whole: Outline, left_out: Collection[int] = ()
) -> contract.Kept:
    """Checks the mask over the whole split, and counts: at its final weights, then at each kind that it will have."""
    tokens = split.tokens
    return contract.checked(
        tokens.chunks(),
        np.append(tokens.dialogues[1:] != tokens.dialogues[:-1], True),
        of,
        (whole.final, *(weights for _, weights in whole.kinds)),
        special_tokens=words.special_tokens,
        max_len=settings["model"]["max_len"],
        drop=settings["mask_schedule"]["untrained"] == "drop",
        id_of=lambda index: split.dialogues.rows[index]["id"],
        left_out=list(left_out),
    )


def mask_digest(settings: Settings, split: Split, words: Vocabulary, left_out: Collection[int] = ()) -> dict[str, str]:
    """What decides which token is trained when, part by part, and `whole` of them all; `left_out` are the training
    dialogues that `data.drop_leaks` takes."""
    node = {key: value for key, value in settings["mask_schedule"].items() if key != "alignment_every_n_steps"}
    schedule = [node, settings["train_user_turn_mask_step"], settings["schedule_steps"]]
    parts = {
        "data": f"{split.dialogues.digest} {settings['data']['drop_leaks']} {sorted(left_out)}",
        "vocabulary": words.digest(),
        "format": str(tables.FORMAT),
        "truncation": f"{settings['data']['truncation']} {settings['model']['max_len']}",
        "schedule": json.dumps(schedule, sort_keys=True),
    }
    digests = {name: hashlib.sha256(part.encode("utf-8")).hexdigest()[:16] for name, part in parts.items()}
    return digests | {"whole": hashlib.sha256("".join(digests.values()).encode("utf-8")).hexdigest()[:16]}


def plan(settings: Settings, training: TokenTable, kept: np.ndarray, of: Mask, on: torch.device) -> Plan:
    """Learning rate, weights and batches of every step, over the sequences at `kept`.

    `settings["schedule_steps"]` must be a number by now.
    """
    seed, batch_size, schedule_steps = settings["seed"], settings["batch_size"], settings["schedule_steps"]
    factor = _function_of(settings["scheduler"], "scheduler", schedule_steps=schedule_steps)

    def role_weights(step: int) -> RoleWeights:
        return of.at(progress_of(step, schedule_steps))

    def batches(step: int) -> Iterator[Batch]:
        indices = kept[batch_indices(seed, step, len(kept), batch_size)]
        indices = indices[share(training.lengths[indices], group.size(), group.rank())]
        weigh = partial(of.tokens, at=role_weights(step))
        for batch in micro_batches(training, indices, weigh, settings["micro_batch_tokens"]):
            yield to_device(batch, on)

    lr0 = settings["optim"]["lr0"]
    return Plan(lambda step: lr0 * factor(step), role_weights, batches, steps_per_epoch(len(kept), batch_size))


def probe_batches(settings: Settings, held_out: TokenTable, on: torch.device) -> list[Batch]:
    """The same held-out sequences for every run, about `PROBE_TOKENS` in all, on which gradients are compared."""
    order = np.random.Generator(np.random.PCG64(seed_of("probe"))).permutation(len(held_out))
    count = max(1, int(np.searchsorted(np.cumsum(held_out.lengths[order]), PROBE_TOKENS)))
    batches = micro_batches(held_out, order[:count], every_turn, settings["micro_batch_tokens"])
    return [to_device(batch, on) for batch in batches]


def _ready(built: PreTrainedModel, settings: Settings, on: torch.device, say: Say) -> PreTrainedModel:
    positions, max_len = getattr(built.config, "max_position_embeddings", None), settings["model"]["max_len"]
    if positions is not None and max_len > positions:
        raise ConfigError([f"model.max_len={max_len}: the model has {positions} positions; use at most that"])
    built.to(on)
    use_fused(built)
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


def cache_dir(settings: Settings) -> Path:
    chosen = settings["data"]["cache_dir"]
    return (
        Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dialog_trainer"
    )


def _function_of(node: dict[str, Any], group: str, given: int = 1, **runtime: Any) -> Callable:
    """The function that `_target_` names (it was checked), with the other keys of `node` and what it asks of `runtime`.

    `given` is the number of arguments that it is called with.
    """
    name = node["_target_"]
    keys = {key: value for key, value in node.items() if key != "_target_"}
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError([f"_target_={name}: cannot be imported: {error}"]) from None
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError([f"{group}._target_={name}: cannot be called"]) from None
    asked = signature.parameters
    unknown = [key for key in keys if key not in asked or key in runtime]
    if unknown:
        raise ConfigError([f"{group}.{key}={keys[key]}: {name} takes no {key}" for key in unknown])
    built = partial(function, **keys, **{key: value for key, value in runtime.items() if key in asked})
    try:
        signature.bind(*[None] * given, **built.keywords)
    except TypeError as error:
        raise ConfigError([f"{group}: {name}: {error}"]) from None
    return built
