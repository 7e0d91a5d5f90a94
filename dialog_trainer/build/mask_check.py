"""The check of a mask over a split, its coverage there, and its digest."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import reduce
from operator import add

import numpy as np

from dialog_trainer.build.data import Split
from dialog_trainer.config.frozen import nest
from dialog_trainer.config.schema import Config
from dialog_trainer.data.dataset import SEQUENCE_FORMAT, DialogueDataset
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.files import sha256_of_texts
from dialog_trainer.masking.coverage import MaskCounts, SplitSummary, count_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.timeline import ScheduleTimeline
from dialog_trainer.masking.validation import MaskCheckResult, check_mask
from dialog_trainer.types import Role


def check_split_mask(
    config: Config,
    split: Split,
    tokenizer: DialogueTokenizer,
    mask: Mask,
    timeline: ScheduleTimeline,
    excluded_dialogues: Collection[int] = (),
) -> MaskCheckResult:
    """Checks the mask over the whole split, and counts: at its final weights, then at each kind that it will have."""
    tokens = split.tokens
    return check_mask(
        tokens.chunks(),
        mask,
        (timeline.final, *(weights for _, weights in timeline.kinds)),
        contract=tokenizer.chat_format.contract,
        max_len=config.model.max_len,
        drop_untrained=config.mask_schedule.untrained == "drop",
        dialogue_id=lambda index: split.dialogues.rows[index]["id"],
        excluded_dialogues=excluded_dialogues,
    )


def summarize_training(split: Split, tokenizer: DialogueTokenizer, check: MaskCheckResult) -> SplitSummary:
    """What was understood of the training split, from the counts of `check_split_mask`."""
    final, first = check.counts.trained[0].sum(1), check.counts.trained[1].sum(1)
    return _summarize("train", split, tokenizer, check.counts, first, final)


def summarize_held_out(name: str, split: Split, tokenizer: DialogueTokenizer, mask: Mask) -> SplitSummary:
    """What was understood of a held-out split, whose loss covers the trained role and the ends whatever the mask."""
    covered = (mask.trained_role, Role.END)
    counts = reduce(
        add,
        (
            count_coverage(spans, [np.isin(spans.roles, covered).astype(np.float32)])
            for _, _, spans in split.tokens.chunks()
        ),
    )
    scored = counts.trained[0].sum(1)
    return _summarize(name, split, tokenizer, counts, scored, scored)


def _summarize(
    name: str, split: Split, tokenizer: DialogueTokenizer, counts: MaskCounts, before: np.ndarray, after: np.ndarray
) -> SplitSummary:
    unknown, read = tokenizer.unknown_id, split.dialogues.counts
    return SplitSummary(
        name,
        read.turns_by_role,
        counts,
        before,
        after,
        0 if unknown is None else sum(int((ids == unknown).sum()) for _, ids, _ in split.tokens.chunks()),
        read.unread,
        read.by_position,
    )


def digest_mask(
    config: Config, split: Split, tokenizer: DialogueTokenizer, excluded_dialogues: Collection[int] = ()
) -> dict[str, str]:
    """A digest of each part that decides which token is trained when, and `whole` of them all.

    `excluded_dialogues`: indices of the training dialogues that `data.drop_leaks` excludes.
    """
    group = nest(config.flat())["mask_schedule"]
    del group["alignment_every_n_steps"]
    # 0 and 1 as people type them: runs saved before the schema have them so in their digest.
    switch = config.train_user_turn_mask_step
    schedule = [group, int(switch) if switch.is_integer() else switch, config.schedule_steps]
    if config.whole_epochs:
        schedule.append("past its end")
    parts = {
        "data": describe_training_data(split.dialogues, config.data.drop_leaks, excluded_dialogues),
        "vocabulary": tokenizer.digest(),
        "format": str(SEQUENCE_FORMAT),
        "truncation": f"{config.data.truncation} {config.model.max_len}",
        "schedule": json.dumps(schedule, sort_keys=True),
    }
    digests = {name: short_digest(part) for name, part in parts.items()}
    return digests | {"whole": short_digest("".join(digests.values()))}


def is_training_data(dialogues: DialogueDataset, digest: Mapping[str, str]) -> bool:
    """Whether a run of this `digest` (of `digest_mask`) without `data.drop_leaks` read its training split as `dialogues`."""
    return digest.get("data") in (None, short_digest(describe_training_data(dialogues, False, ())))


def describe_training_data(dialogues: DialogueDataset, drop_leaks: bool, excluded: Collection[int]) -> str:
    return f"{dialogues.digest} {drop_leaks} {sorted(excluded)}"


def short_digest(text: str) -> str:
    return sha256_of_texts(text)[:16]
