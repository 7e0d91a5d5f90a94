"""What a contender has to do. The parent sends it as JSON to the contender's process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The training of a contender. What has a default may differ between contenders of one table.

    folder: the model and the dialogues, as `material.write` writes them
    max_len: tokens of a sequence; a longer one is cut at its end
    dropout: probability, of all layers and of a LoRA adapter
    precision: `fp32`, or `bf16` (autocast; the weights stay fp32)
    lora: whether to train the adapter of conf/model/adapter/lora.yaml instead of all weights
    batch_size: dialogues an update
    lr, weight_decay: constant, of AdamW
    max_grad_norm: of all gradients together
    threads: of torch
    order: of the batches: `given` (the package's own), or `by_length`
    best: whether to use all settings for speed but compilation
    compile: whether to compile; None: what the contender does by itself
    padding_free: whether to flatten batches (TRL alone)
    overrides: more options of a run (ours alone)
    """

    folder: str
    max_len: int
    dropout: float
    precision: str
    lora: bool
    batch_size: int
    lr: float
    weight_decay: float
    max_grad_norm: float
    threads: int
    order: str = "given"
    best: bool = False
    compile: bool | None = None
    padding_free: bool = False
    overrides: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises `TypeError` if a field is missing or unknown."""
        found = json.loads(text)
        return cls(**found | {"overrides": tuple(found["overrides"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortRun(Job):
    """A whole run with evaluations.

    steps: updates of the run
    every: updates between two evaluations
    new_tokens: the most tokens of a reply
    reply_tokens: tokens in a batch of replies; None: the contender's default
    output: folder for the results of the peers, in `folder`
    """

    steps: int
    every: int
    new_tokens: int
    reply_tokens: int | None = None
    output: str = ""


def setting_of(size: str, job: Job) -> dict[str, Any]:
    """The fields of a row of results that say what was measured."""
    return {"size": size} | {name: getattr(job, name) for name in ("max_len", "dropout", "precision", "lora")}


def title_of(row: Mapping[str, Any]) -> str:
    """`0.7M, max_len 128, dropout 0.1, fp32`, for a row of results."""
    return f"{title_without_precision(row)}, {row['precision']}"


def title_without_precision(row: Mapping[str, Any]) -> str:
    adapter = ", LoRA" if row["lora"] else ""
    return f"{row['size']}, max_len {row['max_len']}, dropout {row['dropout']:g}{adapter}"
