"""What each option may be, as data. No torch, no Hydra.

`conf/` holds the defaults and says in a comment what `RULES` enforces; a test holds the two together.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dialog_trainer.metrics.registry import SCORE_NAMES

Settings = dict[str, Any]

# Exact names that `_target_` may have; a prefix would let in far more than is meant.
TARGETS = {
    "data": {
        "dialog_trainer.data.sources.DailyDialog",
        "dialog_trainer.data.sources.Jsonl",
        "dialog_trainer.data.sources.ChitChat",
    },
    "optim": {"torch.optim.AdamW", "torch.optim.Adam", "torch.optim.SGD"},
    "scheduler": {f"dialog_trainer.training.learning_rate.{name}" for name in ("cosine", "linear", "constant")},
    "mask_schedule": {
        f"dialog_trainer.masking.schedules.{name}"
        for name in ("step", "reverse_step", "random_turns", "linear", "cosine", "constant", "piecewise")
    },
}
# What conf/config.yaml gives every choice of a group; the other keys are those of the choice's own class or function.
DATA_KEYS = ("drop_leaks", "truncation", "workers", "cache_dir")
MASK_KEYS = ("trained_role", "last_turn_only", "normalize", "untrained", "alignment_every_n_steps")
# Names that are kept free for what comes later.
LATER = {("mode", "report"), ("ui", "web")}
PROTOCOLS = ("response", "all_turns", "rollout", "original")
CURVE_NAMES = ("train_loss", "validation_loss", "lr", "grad_norm", "tokens_per_second", "user_weight",
               "assistant_weight")  # fmt: skip
MIN_MAX_LEN = 8
# The mask is looked at for every step before the first.
MAX_STEPS = 10_000_000
MODES_ON_A_RUN = ("resume", "validate", "chat")


@dataclass(frozen=True, slots=True)
class Rule:
    """A test of one value and, for the message, what it allows and the names that a list or dict may hold."""

    allows: str
    holds: Callable[[Any], bool]
    nullable: bool = False
    names: tuple[str, ...] = ()

    def fault(self, key: str, value: Any) -> str | None:
        if (value is None and self.nullable) or (value is not None and self.holds(value)):
            return None
        shown = "null" if value is None else value
        if isinstance(value, str) and (key, value) in LATER:
            return f"{key}={shown}: is not in this version; use {self.allows}"
        near = [
            close
            for name in (value if self.names and isinstance(value, (list, dict)) else ())
            if isinstance(name, str) and name not in self.names
            for close in difflib.get_close_matches(name, self.names, n=1)
        ]
        hint = f"; did you mean {' and '.join(near)}?" if near else ""
        return f"{key}={shown}: must be {self.allows}" + (" or null" if self.nullable else "") + hint


def whole(low: int, high: int | None = None, nullable: bool = False) -> Rule:
    allows = f"a whole number of at least {low:,}" if high is None else f"a whole number from {low:,} to {high:,}"
    return Rule(allows, lambda v: type(v) is int and v >= low and (high is None or v <= high), nullable)


def number(allows: str, holds: Callable[[float], bool], nullable: bool = False) -> Rule:
    return Rule(f"a number {allows}", lambda v: type(v) in (int, float) and v == v and holds(v), nullable)


def choice(*names: str) -> Rule:
    return Rule(" or ".join(names), lambda v: isinstance(v, str) and v in names)


def text(nullable: bool = False) -> Rule:
    allows = "a text that is not empty (a number as a text: \"'1'\")"
    return Rule(allows, lambda v: isinstance(v, str) and bool(v.strip()), nullable)


def names_of(known: Iterable[str]) -> Rule:
    known = tuple(known)
    holds = lambda v: isinstance(v, list) and all(isinstance(item, str) and item in known for item in v)  # noqa: E731
    return Rule(f"a list of {', '.join(known)}", holds, names=known)


BOOLEAN = Rule("true or false", lambda v: isinstance(v, bool))
ABOVE_0 = number("above 0", lambda v: 0 < v < float("inf"))
SHARE = number("from 0 to 1", lambda v: 0 <= v <= 1)
DECAY = number("of at least 0", lambda v: 0 <= v < float("inf"))
BELOW_1 = number("from 0 to below 1", lambda v: 0 <= v < 1)
DEVICE = Rule(
    "auto, cpu, mps, cuda or a list of CUDA devices, each once, as [0] or [0,1]",
    lambda v: (
        v in ("auto", "cpu", "mps", "cuda")
        or (
            isinstance(v, list)
            and all(type(index) is int and index >= 0 for index in v)
            and 1 <= len(v) == len(set(map(str, v)))
        )
    ),
)
BETAS = Rule(
    "two numbers from 0 to below 1, as [0.9,0.999]",
    lambda v: isinstance(v, list) and len(v) == 2 and all(BELOW_1.holds(beta) for beta in v),
)
BEST = Rule(
    f"a dict of scores and weights, as {{bleu2: 1}}; scores: {', '.join(SCORE_NAMES)}",
    lambda v: (
        isinstance(v, dict)
        and bool(v)
        and all(
            key in SCORE_NAMES and type(weight) in (int, float) and math.isfinite(weight) for key, weight in v.items()
        )
    ),
    names=SCORE_NAMES,
)
POINTS = Rule(
    "a list of points, each [progress, user's weight] or [progress, user's, assistant's weight], as [[0,1],[0.5,0.1]]",
    lambda v: (
        isinstance(v, list)
        and bool(v)
        and all(
            isinstance(point, list) and len(point) in (2, 3) and all(type(n) in (int, float) for n in point)
            for point in v
        )
    ),
)
TEXTS = Rule("a list of texts", lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v))

RULES: dict[str, Rule] = {
    "mode": choice("train", *MODES_ON_A_RUN, "inspect"),
    "project": text(),
    "name": text(),
    "seed": whole(0, 2**63 - 1),
    "deterministic": BOOLEAN,
    "device": DEVICE,
    "processes": whole(1, 1024),
    "port": whole(1024, 65535, nullable=True),
    "parallel": choice("ddp", "fsdp"),
    "distributed_timeout_seconds": ABOVE_0,
    "precision": choice("fp32", "bf16", "fp16"),
    "compile": Rule("auto, true or false", lambda v: v == "auto" or isinstance(v, bool)),
    "steps": whole(1, MAX_STEPS),
    "schedule_steps": whole(1, MAX_STEPS, nullable=True),
    "batch_size": whole(1),
    "micro_batch_tokens": Rule(
        f"auto, or a whole number of at least {MIN_MAX_LEN}",
        lambda v: v == "auto" or (type(v) is int and v >= MIN_MAX_LEN),
    ),
    "activation_checkpointing": BOOLEAN,
    "max_grad_norm": Rule(ABOVE_0.allows, ABOVE_0.holds, nullable=True),
    "train_user_turn_mask_step": SHARE,
    "patience": whole(1),
    "validate_every_n_steps": whole(1, nullable=True),
    "save_every_n_steps": whole(1, nullable=True),
    "log_every_n_steps": whole(1),
    "prediction_print_n": whole(0),
    "resume_model_dir": text(nullable=True),
    "load_model_type": choice("metric", "loss", "last"),
    "split": choice("train", "validation", "test"),
    "compare_with": text(nullable=True),
    "ui": choice("terminal"),
    "progress": Rule(SHARE.allows, SHARE.holds, nullable=True),
    "inspect_dialogues": whole(1, 5000),
    "chat.temperature": number("0, or from 0.01 to 10", lambda v: v == 0 or 0.01 <= v <= 10),
    "chat.top_p": number("above 0, to 1", lambda v: 0 < v <= 1),
    "chat.max_new_tokens": whole(1, nullable=True),
    "allow_targets": TEXTS,
    "model.pretrained_model": text(nullable=True),
    "model.max_len": whole(MIN_MAX_LEN),
    "model.dropout": Rule(BELOW_1.allows, BELOW_1.holds, nullable=True),
    "model.vocab_size": whole(257, 1_000_000),
    "model.layers": whole(1),
    "model.heads": whole(1),
    "model.width": whole(1),
    "model.positions": whole(MIN_MAX_LEN),
    "data._target_": text(),
    "data.drop_leaks": BOOLEAN,
    "data.truncation": choice("split", "keep_start", "keep_end"),
    "data.workers": whole(1, nullable=True),
    "data.cache_dir": text(nullable=True),
    "data.path": text(nullable=True),
    "data.hub_id": text(),
    "data.hub_revision": text(nullable=True),
    "data.hub_column": text(),
    "data.train_data_path": text(nullable=True),
    "data.validation_data_path": text(nullable=True),
    "data.test_data_path": text(nullable=True),
    "data.validation_share": number("above 0, below 1", lambda v: 0 < v < 1),
    "optim._target_": text(),
    "optim.lr0": ABOVE_0,
    "optim.weight_decay": DECAY,
    "optim.betas": BETAS,
    "optim.eps": ABOVE_0,
    "optim.momentum": BELOW_1,
    "scheduler._target_": text(),
    "scheduler.warmup_steps": whole(0),
    "scheduler.lrf": SHARE,
    "mask_schedule._target_": text(),
    "mask_schedule.trained_role": choice("assistant", "user"),
    "mask_schedule.last_turn_only": BOOLEAN,
    "mask_schedule.normalize": choice("token", "fixed", "turn"),
    "mask_schedule.untrained": choice("drop", "refuse"),
    "mask_schedule.alignment_every_n_steps": whole(1, nullable=True),
    "mask_schedule.start": SHARE,
    "mask_schedule.end": SHARE,
    "mask_schedule.start_weight": SHARE,
    "mask_schedule.end_weight": SHARE,
    "mask_schedule.points": POINTS,
    "metrics.common": names_of(CURVE_NAMES),
    "metrics.names": names_of(SCORE_NAMES),
    "metrics.best": BEST,
    "metrics.max_dialogues": whole(1, nullable=True),
    "metrics.max_new_tokens": whole(1),
    "metrics.batch_tokens": whole(MIN_MAX_LEN),
    "metrics.protocol": choice(*PROTOCOLS),
    "metrics.decoding": choice("greedy", "sample", "beam"),
    "metrics.temperature": number("from 0.01 to 10", lambda v: 0.01 <= v <= 10),
    "metrics.top_p": number("above 0, to 1", lambda v: 0 < v <= 1),
    "metrics.beams": whole(2, 64),
    "metrics.max_seconds": Rule(ABOVE_0.allows, ABOVE_0.holds, nullable=True),
}
GROUPS = ("model", "data", "optim", "scheduler", "metrics", "mask_schedule", "chat")
# Names and paths: any text.
FREE_TEXTS = ("project", "name", "resume_model_dir", "compare_with", "model.pretrained_model", "data.path", "data.cache_dir",
              "data.train_data_path", "data.validation_data_path", "data.test_data_path", "data.hub_id")  # fmt: skip
# Leaves although they are dicts; and the groups whose keys go to a class or function that may be the user's own.
DICTS = {"metrics.best"}
OPEN_GROUPS = ("optim", "mask_schedule")
# What each choice of a group has, the user's own too.
NEEDED = ("model.pretrained_model", "model.max_len", "model.dropout", "optim.lr0", "scheduler.warmup_steps",
          *(f"data.{name}" for name in DATA_KEYS),
          *(f"mask_schedule.{name}" for name in MASK_KEYS),
          *(f"{group}._target_" for group in TARGETS),
          *(key for key in RULES if key.startswith(("metrics.", "chat."))))  # fmt: skip


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values; a dict in the place of a value stays whole, right or wrong there."""
    items: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in RULES:
            items |= flatten(value, f"{name}.")
        else:
            items[name] = value
    return items
