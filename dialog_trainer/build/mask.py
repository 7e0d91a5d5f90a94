"""build.mask."""

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
import torch
from transformers import PreTrainedModel
from dialog_trainer.build.data import Split
from dialog_trainer.build.instantiate import instantiate
from dialog_trainer.config.options import MASK_KEYS
from dialog_trainer.config.options import Settings
from dialog_trainer.data.dataset import CACHE_FORMAT
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.timeline import ScheduleTimeline
from dialog_trainer.masking.validation import MaskCheckResult
from dialog_trainer.masking.validation import check_mask
from dialog_trainer.types import Role



def build_mask(settings: Settings) -> Mask:
    node = settings["mask_schedule"]
    own = {key: value for key, value in node.items() if key not in MASK_KEYS}
    schedule = instantiate(own, "mask_schedule", train_user_turn_mask_step=settings["train_user_turn_mask_step"])
    made = schedule(0.0)
    if not isinstance(made, RoleWeights):
        raise ConfigError(
            [f"mask_schedule: {node['_target_']} gives {made!r}, where a schedule gives RoleWeights(user, assistant)"]
        )
    return Mask(schedule, Role[node["trained_role"].upper()], node["last_turn_only"], node["normalize"])


def check_split_mask(
    settings: Settings, split: Split, words: DialogueTokenizer, of: Mask, whole: ScheduleTimeline, left_out: Collection[int] = ()
) -> MaskCheckResult:
    """Checks the mask over the whole split, and counts: at its final weights, then at each kind that it will have."""
    tokens = split.tokens
    return check_mask(
        tokens.chunks(),
        of,
        (whole.final, *(weights for _, weights in whole.kinds)),
        special_tokens=words.special_tokens,
        max_len=settings["model"]["max_len"],
        drop_untrained=settings["mask_schedule"]["untrained"] == "drop",
        dialogue_id=lambda index: split.dialogues.rows[index]["id"],
        excluded_dialogues=left_out,
    )


def digest_mask(settings: Settings, split: Split, words: DialogueTokenizer, left_out: Collection[int] = ()) -> dict[str, str]:
    """What decides which token is trained when, part by part, and `whole` of them all; `left_out` are the training
    dialogues that `data.drop_leaks` takes."""
    node = {key: value for key, value in settings["mask_schedule"].items() if key != "alignment_every_n_steps"}
    schedule = [node, settings["train_user_turn_mask_step"], settings["schedule_steps"]]
    parts = {
        "data": f"{split.dialogues.digest} {settings['data']['drop_leaks']} {sorted(left_out)}",
        "vocabulary": words.digest(),
        "format": str(CACHE_FORMAT),
        "truncation": f"{settings['data']['truncation']} {settings['model']['max_len']}",
        "schedule": json.dumps(schedule, sort_keys=True),
    }
    digests = {name: hashlib.sha256(part.encode("utf-8")).hexdigest()[:16] for name, part in parts.items()}
    return digests | {"whole": hashlib.sha256("".join(digests.values()).encode("utf-8")).hexdigest()[:16]}
