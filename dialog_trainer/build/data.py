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
from dataclasses import asdict
from dialog_trainer.build.instantiate import instantiate
from dialog_trainer.config.options import DATA_KEYS
from dialog_trainer.config.options import Settings
from dialog_trainer.data.contamination import Contamination
from dialog_trainer.data.contamination import GRAM_WORDS
from dialog_trainer.data.contamination import MIN_JACCARD
from dialog_trainer.data.contamination import Overlap
from dialog_trainer.data.contamination import find_contamination
from dialog_trainer.data.dataset import CACHE_FORMAT
from dialog_trainer.data.dataset import DialogueDataset
from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.dataset import open_tokens
from dialog_trainer.data.packing import batch_to_device
from dialog_trainer.data.packing import pack_micro_batches
from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import DataError
from dialog_trainer.evaluation.losses import weigh_every_turn
from dialog_trainer.files import build_directory_once
from dialog_trainer.files import cache_key
from dialog_trainer.types import Batch
from dialog_trainer.types import Say

MAX_DEFAULT_WORKERS = 8
# Tokens of the held-out dialogues on which the gradients of the two roles are compared.
PROBE_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Split:
    """One split, as text and as tokens."""

    dialogues: DialogueDataset
    tokens: TokenDataset


def load_dialogues(settings: Settings, split: str, say: Say) -> DialogueDataset:
    own = {key: value for key, value in settings["data"].items() if key not in DATA_KEYS}
    source = instantiate(own, "data", given=0)()
    return open_dialogues(source, split, resolve_cache_dir(settings), say)


def tokenize_split(settings: Settings, table: DialogueDataset, tokenizer: DialogueTokenizer, truncation: str = "split") -> Split:
    """`truncation` is that of training for the training split; held-out dialogues are scored whole, in parts."""
    tokens = open_tokens(
        table,
        tokenizer,
        max_len=settings["model"]["max_len"],
        truncation=truncation,
        workers=settings["data"]["workers"] or min(MAX_DEFAULT_WORKERS, os.cpu_count() or 1),
        cache_dir=resolve_cache_dir(settings),
    )
    return Split(table, tokens)


def load_tokenizer(settings: Settings, training: DialogueDataset, say: Say) -> DialogueTokenizer:
    """The pretrained model's, or a BPE learned from the training split (once for the same dialogues and size)."""
    model = settings["model"]
    if model["pretrained_model"]:
        return DialogueTokenizer.pretrained(model["pretrained_model"])
    size = model["vocab_size"]

    def learn(aside: Path) -> None:
        say(f"learning a vocabulary of {size:,} entries from the training dialogues")
        DialogueTokenizer.train(training.texts(), size).save(aside)

    folder = resolve_cache_dir(settings) / f"vocabulary-{cache_key(CACHE_FORMAT, training.digest, size)}"
    return DialogueTokenizer.pretrained(str(build_directory_once(folder, learn)))


def build_probe_batches(settings: Settings, held_out: TokenDataset, on: torch.device) -> list[Batch]:
    """The same held-out sequences for every run, about `PROBE_TOKENS` in all, on which gradients are compared."""
    order = np.random.Generator(np.random.PCG64(derive_seed("probe"))).permutation(len(held_out))
    count = max(1, int(np.searchsorted(np.cumsum(held_out.lengths[order]), PROBE_TOKENS)))
    batches = pack_micro_batches(held_out, order[:count], weigh_every_turn, settings["micro_batch_tokens"])
    return [batch_to_device(batch, on) for batch in batches]


def resolve_cache_dir(settings: Settings) -> Path:
    chosen = settings["data"]["cache_dir"]
    return (
        Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dialog_trainer"
    )


def report_contamination(settings: Settings, training: DialogueDataset, validation: DialogueDataset, say: Say) -> set[int]:
    """Says what the splits share, and returns the training dialogues that `data.drop_leaks` leaves out."""
    found = {"validation": measure_contamination(settings, training, validation)}
    if settings["data"]["drop_leaks"]:
        try:
            found["test"] = measure_contamination(settings, training, load_dialogues(settings, "test", say))
        except DataError as error:
            say(f"note: data.drop_leaks looks at the validation split alone: {error}")
    for split, one in found.items():
        say(one.summary(split))
    if not settings["data"]["drop_leaks"]:
        return set()
    out = {index for one in found.values() for index in one.widest().training}
    say(f"data.drop_leaks: {len(out):,} training dialogues are left out")
    return out


def measure_contamination(settings: Settings, training: DialogueDataset, held_out: DialogueDataset) -> Contamination:
    """The held-out dialogues that also stand in the training split; looked for once for the same two splits."""
    key = cache_key(training.digest, held_out.digest, MIN_JACCARD, GRAM_WORDS)

    def look(aside: Path) -> None:
        (aside / "leaks.json").write_text(json.dumps(asdict(find_contamination(training, held_out))), encoding="utf-8")

    folder = build_directory_once(resolve_cache_dir(settings) / f"leaks-{key}", look)
    found = json.loads((folder / "leaks.json").read_text(encoding="utf-8"))
    kinds = {
        name: found[name] and Overlap(*map(tuple, found[name].values())) for name in ("exact", "normalised", "near")
    }
    return Contamination(**kinds, num_held_out=found["num_held_out"])
