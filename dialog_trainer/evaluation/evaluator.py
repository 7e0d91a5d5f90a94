"""One validation of a model on a split: held-out loss, replies by a protocol, and their scores."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from dialog_trainer.data.dataset import DialogueDataset, TokenDataset
from dialog_trainer.data.sampler import local_shard
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import TrainingError
from dialog_trainer.evaluation.contexts import sample_dialogues
from dialog_trainer.evaluation.losses import (
    HeldOutLosses,
    measure_held_out_losses,
    nll_by_role,
    nll_by_turn,
    sum_words_and_bytes,
)
from dialog_trainer.evaluation.progress import PartProgress, Progress
from dialog_trainer.evaluation.protocols import ReplyProtocol
from dialog_trainer.metrics.registry import Metrics
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import Reply, Role

# Dialogues of each rank between two looks at the clock, where `max_seconds` bounds the time.
DIALOGUES_PER_LOOK = 16


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """What one validation computes.

    `metrics` are the scores. Replies are made to at most `max_dialogues` dialogues of the split and for about
    `max_seconds` (None: no bound). `max_tokens` bounds one forward pass of the loss. `words` is the tokenizer of words.
    """

    protocol: ReplyProtocol
    metrics: Metrics
    max_dialogues: int | None
    max_seconds: float | None
    max_tokens: int
    words: str = "13a"


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What one validation found.

    `loss` is in nats per token, over the turns of the trained role and the ends of dialogues; `losses` by role and by
    turn. `loss_sums` `(D, 4)`: nats, tokens, words and bytes of the same tokens, by dialogue of the split (words and
    bytes are 0 if no score needs them); `role_sums` `(D, 5, 2)`: nats and tokens by role. `scores` by name, None without a reply to score; `replies` to `num_replied` dialogues of the split.
    """

    loss: float
    losses: dict[str, float | int | None]
    loss_sums: np.ndarray
    scores: dict[str, float | None]
    replies: list[Reply]
    num_replied: int
    role_sums: np.ndarray

    def samples(self, count: int) -> list[Reply]:
        """At most `count` replies, sampled by a hash of their contexts: the same contexts in each validation."""
        return sorted(self.replies, key=lambda reply: derive_seed("sample", reply.dialogue_id, reply.turn_index))[
            :count
        ]


def evaluate(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    dialogues: DialogueDataset,
    tokens: TokenDataset,
    plan: ValidationPlan,
    progress: Progress,
) -> ValidationResult | None:
    """Validates `model` on a split, given as `dialogues` and `tokens`; None on a stop request. All ranks call it.

    Raises `TrainingError` if the loss is not finite or the split has no token of the trained role.
    """
    role = plan.protocol.settings.role
    progress.start("loss", len(tokens))
    losses = measure_held_out_losses(model, tokens, max_tokens=plan.max_tokens, progress=progress)
    if losses is None:
        return None
    loss = _mean_loss(losses, role)
    words_and_bytes = np.zeros((len(losses.by_dialogue), 2))
    if {"ppl_word", "ppl_byte"} & plan.metrics.keys():
        words_and_bytes = sum_words_and_bytes(tokens, tokenizer, role, plan.words)
    loss_sums = np.hstack([losses.sum_roles((role, Role.END)), words_and_bytes])
    lengths = np.bincount(tokens.dialogues, weights=tokens.lengths)
    produced = _reply_to_split(model, tokenizer, dialogues, lengths, plan, progress)
    if produced is None:
        return None
    replies, num_replied = produced
    values: dict[str, float | None] = {**plan.protocol.score_replies(plan.metrics, replies, tokenizer)}
    if not replies:
        values = dict.fromkeys(values)
    totals = loss_sums.sum(0)
    values |= {name: one.value(totals) for name, one in plan.metrics.items() if one.from_loss and one.value}
    by_role_and_turn = nll_by_role(losses.role_turn_sums) | nll_by_turn(losses.role_turn_sums)
    scores = {name: values[name] for name in plan.metrics}
    return ValidationResult(loss, by_role_and_turn, loss_sums, scores, replies, num_replied, losses.by_dialogue)


def _mean_loss(losses: HeldOutLosses, role: Role) -> float:
    """Nats per token of `role` and the ends."""
    nats, count = losses.sum_roles((role, Role.END)).sum(0)
    loss = float(nats / count) if count else math.nan
    if not count:
        raise TrainingError(f"the validation loss is {loss}: this split has no turn of that role")
    if not math.isfinite(losses.by_dialogue.sum()):
        raise TrainingError(f"the validation loss is {loss}: the weights hold values that are not finite")
    return loss


def _reply_to_split(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    dialogues: DialogueDataset,
    lengths: np.ndarray,
    plan: ValidationPlan,
    progress: Progress,
) -> tuple[list[Reply], int] | None:
    """Replies in the order of the split, and the number of dialogues they belong to; None on a stop request.

    Each rank replies to its shard of the dialogues, balanced by their `lengths` `(D,)` in tokens.
    """
    indices = sample_dialogues(dialogues, plan.max_dialogues)
    group_size = len(indices)
    if plan.max_seconds is not None:  # in the order of the hash, so that any part done in time is a sample too
        indices = sorted(indices, key=lambda index: derive_seed("draw", dialogues.rows[index]["id"]))
        group_size = DIALOGUES_PER_LOOK * collectives.world_size()
    progress.start("dialogues replied to", len(indices))
    start_time = time.monotonic()
    replies_by_id: dict[str, list[Reply]] = {}
    for first in range(0, len(indices), group_size):
        group = np.array(indices[first : first + group_size])
        shard = group[local_shard(lengths[group], collectives.world_size(), collectives.rank())]
        replies = plan.protocol.produce_replies(
            [dialogues[index] for index in shard.tolist()],
            model,
            tokenizer,
            PartProgress(progress, len(shard), len(group)),
        )
        if collectives.any_rank(replies is None):
            return None
        for reply in itertools.chain.from_iterable(collectives.all_gather_objects(replies or [])):
            replies_by_id.setdefault(reply.dialogue_id, []).append(reply)
        if plan.max_seconds is not None:
            seconds = collectives.all_reduce_max(time.monotonic() - start_time)
            if seconds >= plan.max_seconds:
                indices = indices[: first + group_size]
                break
    ids = [dialogues.rows[index]["id"] for index in sorted(indices)]
    return [reply for identifier in ids for reply in replies_by_id.get(identifier, ())], len(indices)
