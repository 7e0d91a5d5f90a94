"""Dialogues, tokenizer and token sequences of a configuration; contamination between its splits."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dialog_trainer.build.instantiate import import_target, instantiate
from dialog_trainer.config.schema import Config
from dialog_trainer.data.cache import LAZY_BYTES, open_entry
from dialog_trainer.data.chat_format import ChatFormat, MakeFormat, SeparatorFormat
from dialog_trainer.data.contamination import GRAM_WORDS, MIN_JACCARD, WORD, Contamination, Overlap, find_contamination
from dialog_trainer.data.dataset import SEQUENCE_FORMAT, DialogueDataset, TokenDataset, open_dialogues, open_tokens
from dialog_trainer.data.packing import batch_to_device, pack_micro_batches, weigh_every_turn
from dialog_trainer.data.sources.protocol import DialogueSource
from dialog_trainer.data.template_format import TemplateFormat, choose_format
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import ConfigError, DataError
from dialog_trainer.files import cache_key
from dialog_trainer.metrics.bootstrap import MIN_DIALOGUES
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import Batch, Role, Say

MAX_DEFAULT_WORKERS = 8
# Tokens of the held-out dialogues on which the gradients of the two roles are compared.
PROBE_TOKENS = 2048
# From so many training dialogues on, looking for contamination takes seconds and is announced.
MIN_ANNOUNCED = 20_000


@dataclass(frozen=True, slots=True)
class Split:
    """One split, as text and as tokens."""

    dialogues: DialogueDataset
    tokens: TokenDataset


@dataclass(frozen=True, slots=True)
class FirstDialogues:
    """A source cut after its first `count` dialogues."""

    source: DialogueSource
    count: int

    @property
    def parser(self) -> Any:
        """What counts the keys that were not read, where the source has it."""
        return getattr(self.source, "parser", None)

    def digest(self, split: str) -> str:
        return f"{self.source.digest(split)} first {self.count}"

    def describe(self, split: str) -> str:
        return f"the first {self.count:,} dialogues of {self.source.describe(split)}"

    def dialogues(self, split: str) -> Iterator[Any]:
        return itertools.islice(self.source.dialogues(split), self.count)


def find_final_split(config: Config) -> str:
    """The split to score a finished run on: test, where the source has one."""
    try:
        _make_source(config).describe("test")
    except Exception:  # a source may be the user's own code, and a run that is done must end well
        return "validation"
    return "test"


def _make_source(config: Config) -> DialogueSource:
    source: DialogueSource = instantiate(config.data.target, config.data.arguments, "data", given=0)()
    return source


def load_dialogues(config: Config, split: str, say: Say) -> DialogueDataset:
    source = _make_source(config)
    limit = {"train": config.data.max_train_dialogues, "validation": config.data.max_validation_dialogues}.get(split)
    if limit:
        source = FirstDialogues(source, limit)
    dialogues = open_dialogues(source, split, resolve_cache_dir(config), say, check_up_to=_check_up_to(LAZY_BYTES))
    if split != "train" and len(dialogues) < MIN_DIALOGUES:
        say(
            f"warning: only {len(dialogues)} {split} dialogues: scores, and choices by them, are rough below about {MIN_DIALOGUES}"
        )
    return dialogues


def tokenize_split(
    config: Config, dialogues: DialogueDataset, tokenizer: DialogueTokenizer, say: Say, truncation: str = "split"
) -> Split:
    """`truncation` is that of training for the training split; held-out dialogues are scored whole, in parts."""
    tokens = open_tokens(
        dialogues,
        tokenizer,
        max_len=config.model.max_len,
        truncation=truncation,
        workers=min(MAX_DEFAULT_WORKERS, os.cpu_count() or 1) if config.data.workers is None else config.data.workers,
        cache_dir=resolve_cache_dir(config),
        say=say,
        check_up_to=_check_up_to(),
    )
    return Split(dialogues, tokens)


def fix_chat_date(config: Config) -> Config:
    """The configuration with a day for a chat template that has a clock, the same on all ranks."""
    if config.model.chat_date:
        return config
    return config.replace({"model.chat_date": collectives.broadcast_from_rank0(lambda: date.today().isoformat())})


def load_tokenizer(config: Config, training: DialogueDataset, say: Say) -> tuple[DialogueTokenizer, Config]:
    """The pretrained model's, or a BPE learned from the training split (once for the same dialogues and size); and the
    configuration with the chat format that it has."""
    tokenizer = _load_tokenizer(config, training, say)
    chosen = tokenizer.chat_format
    check_replying_roles(config, chosen)
    name = chosen.name if config.model.chat_format == "auto" else config.model.chat_format
    day = chosen.day if isinstance(chosen, TemplateFormat) else None
    return tokenizer, config.replace({"model.chat_format": name, "model.chat_date": day and day.isoformat()})


def check_replying_roles(config: Config, chat_format: ChatFormat) -> None:
    """Raises `ConfigError` where turns are generated that no token of the chat format ends."""
    both = config.metrics.protocol in ("all_turns", "rollout") and "metrics"
    option = both or (config.mask_schedule.trained_role == "user" and "mask_schedule.trained_role")
    if option and Role.USER not in chat_format.ended_roles:
        raise ConfigError(
            [f"{option}: the chat template ends a user turn with no token of its own, so that generated ones would not stop; "
             "use another protocol and trained_role=assistant, or model.chat_format=separator"]
        )  # fmt: skip


def make_chat_format(config: Config) -> MakeFormat:
    """What makes the chat format of `model.chat_format`; a class of the user's own is imported."""
    options = config.model
    day = date.fromisoformat(options.chat_date) if options.chat_date else None
    # The rows of the original program know its own format alone.
    if options.chat_format == "separator" or (options.chat_format == "auto" and config.metrics.protocol == "original"):
        return SeparatorFormat
    if options.chat_format == "auto":
        return partial(choose_format, day=day)
    if options.chat_format == "template":
        return partial(TemplateFormat, day=day)
    return import_target(options.chat_format, "model.chat_format")


def _load_tokenizer(config: Config, training: DialogueDataset, say: Say) -> DialogueTokenizer:
    if config.model.pretrained_model:
        tokenizer = DialogueTokenizer.pretrained(config.model.pretrained_model, make_chat_format(config))
        for note in tokenizer.chat_format.notes:
            say(f"note: {note}")
        return tokenizer
    size = config.model.sizes.vocab_size

    def learn(aside: Path) -> None:
        say(f"learning a vocabulary of at most {size:,} entries from the training dialogues")
        DialogueTokenizer.train(training.texts(), size).save(aside)

    name = f"vocabulary-{cache_key(SEQUENCE_FORMAT, training.digest, size)}"
    folder = open_entry(resolve_cache_dir(config), name, learn, say, check_up_to=_check_up_to())
    return DialogueTokenizer.pretrained(str(folder), make_chat_format(config))


def build_probe_batches(config: Config, held_out: TokenDataset, device: torch.device) -> list[Batch]:
    """The same held-out sequences for every run, about `PROBE_TOKENS` in all, on which gradients are compared."""
    order = np.random.Generator(np.random.PCG64(derive_seed("probe"))).permutation(len(held_out))
    count = max(1, int(np.searchsorted(np.cumsum(held_out.lengths[order]), PROBE_TOKENS)))
    batches = pack_micro_batches(held_out, order[:count].tolist(), weigh_every_turn, config.forward_tokens)
    return [batch_to_device(batch, device) for batch in batches]


def resolve_cache_dir(config: Config) -> Path:
    chosen = config.data.cache_dir
    return (
        Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dialog_trainer"
    )


def _check_up_to(max_bytes: int = sys.maxsize) -> int:
    """The largest file of the cache that this rank checks: one rank of a machine does it, before the others."""
    return max_bytes if collectives.local_rank() == 0 else 0


def report_contamination(config: Config, training: DialogueDataset, validation: DialogueDataset, say: Say) -> set[int]:
    """Says what the splits share, and returns the training dialogues that `data.drop_leaks` leaves out."""
    found = {"validation": measure_contamination(config, training, validation, say)}
    if config.data.drop_leaks:
        try:
            found["test"] = measure_contamination(config, training, load_dialogues(config, "test", say), say)
        except DataError as error:
            say(f"note: data.drop_leaks looks at the validation split alone: {error}")
    for split, one in found.items():
        say(one.summary(split))
    if not config.data.drop_leaks:
        return set()
    out = {index for one in found.values() for index in one.widest().training}
    say(f"data.drop_leaks: {len(out):,} training dialogues are left out")
    return out


def measure_contamination(
    config: Config, training: DialogueDataset, held_out: DialogueDataset, say: Say
) -> Contamination:
    """The held-out dialogues that are also in the training split; looked for once for the same two splits."""
    key = cache_key(training.digest, held_out.digest, MIN_JACCARD, GRAM_WORDS, WORD.pattern)

    def look(aside: Path) -> None:
        if len(training) >= MIN_ANNOUNCED:
            say(f"looking for {len(held_out):,} held-out dialogues among {len(training):,} training dialogues")
        (aside / "contamination.json").write_text(
            json.dumps(asdict(find_contamination(training, held_out))), encoding="utf-8"
        )

    folder = open_entry(resolve_cache_dir(config), f"contamination-{key}", look, say, check_up_to=_check_up_to())
    found = json.loads((folder / "contamination.json").read_text(encoding="utf-8"))
    kinds = {
        name: found[name] and Overlap(*map(tuple, found[name].values())) for name in ("exact", "normalized", "near")
    }
    return Contamination(**kinds, num_held_out=found["num_held_out"])
