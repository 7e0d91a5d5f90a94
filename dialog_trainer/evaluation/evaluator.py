"""A whole validation of a model on one split: losses, replies by a named protocol, and their scores."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from dialog_trainer.data.dataset import DialogueDataset, TokenDataset
from dialog_trainer.data.sampler import derive_seed, local_shard
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import TrainingError
from dialog_trainer.evaluation.contexts import sample_dialogues
from dialog_trainer.evaluation.losses import (
    HeldOutLosses,
    measure_held_out_losses,
    nll_by_role,
    nll_by_turn,
    scale_progress,
)
from dialog_trainer.evaluation.original.scores import original_scores
from dialog_trainer.evaluation.protocols import Production, ReplySettings, produce_replies
from dialog_trainer.metrics.perplexity import PERPLEXITIES, count_words_and_bytes
from dialog_trainer.metrics.registry import score_replies
from dialog_trainer.types import Reply, Role

# So many dialogues are replied to between two looks at the clock, where the time is bounded.
DIALOGUES_A_LOOK = 16


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """`loss` in nats a token over the turns of the role that replies and the ends; `losses`: by role and by turn;
    `loss_sums` `(D, 4)`: nats, tokens, words and bytes of the same, by dialogue of the split (words and bytes are 0 where
    no score asks for them); `scores` by name; `replies` of `num_replied` dialogues of the split."""

    loss: float
    losses: dict[str, float | int | None]
    loss_sums: np.ndarray
    scores: dict[str, float]
    replies: list[Reply]
    num_replied: int

    def samples(self, count: int) -> list[Reply]:
        """At most `count` replies, the same contexts each time, drawn by a hash."""
        return sorted(self.replies, key=lambda one: derive_seed("sample", one.dialogue_id, one.turn_index))[:count]


def evaluate(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    dialogues: DialogueDataset,
    tokens: TokenDataset,
    how: ReplySettings,
    *,
    names: Sequence[str],
    max_dialogues: int | None,
    max_seconds: float | None,
    max_tokens: int,
    stage: Callable[[str, int], Callable[[int], None]],
    stopped: Callable[[], bool] = lambda: False,
) -> ValidationResult | None:
    """Losses over the whole split, and scores `names` of replies to at most `max_dialogues` of its dialogues, in at most
    about `max_seconds` (both None: all); None once `stopped()`.

    `max_tokens` bounds one forward pass of the loss. `stage(name, total)` opens a progress and returns how to advance it.
    """
    losses = measure_held_out_losses(
        model, tokens, max_tokens=max_tokens, advance=stage("loss", len(tokens)), stopped=stopped
    )
    if losses is None:
        return None
    loss_sums = _loss_sums(losses, tokens, tokenizer, how.role, count=bool({"ppl_word", "ppl_byte"} & set(names)))
    nats, count = loss_sums[:, :2].sum(0)
    loss = nats / count if count else math.nan
    if not math.isfinite(losses.by_dialogue.sum()) or not count:
        raise TrainingError(
            f"the validation loss is {loss}: "
            + ("the weights hold values that are not finite" if count else "this split has no turn of that role")
        )
    lengths = np.bincount(tokens.dialogues, weights=tokens.lengths)
    found = _replied(model, tokenizer, dialogues, lengths, how, max_dialogues, max_seconds, stage, stopped)
    if found is None:
        return None
    replies, num_replied = found
    made = {name: PERPLEXITIES[name](loss_sums.sum(0)) for name in names if name in PERPLEXITIES}
    if how.protocol == "original":
        texts, targets = [reply.text for reply in replies], [reply.reference for reply in replies]
        made |= original_scores(texts, targets, tokenizer.hf_tokenizer.tokenize)
    else:
        made |= score_replies(names, replies)
    scores = {name: made[name] for name in names}
    return ValidationResult(
        loss,
        nll_by_role(losses.role_turn_sums) | nll_by_turn(losses.role_turn_sums),
        loss_sums,
        scores,
        replies,
        num_replied,
    )


def _replied(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    dialogues: DialogueDataset,
    lengths: np.ndarray,
    how: ReplySettings,
    max_dialogues: int | None,
    max_seconds: float | None,
    stage: Callable[[str, int], Callable[[int], None]],
    stopped: Callable[[], bool],
) -> tuple[list[Reply], int] | None:
    """The replies, in the order of the split, and the number of dialogues that they belong to.

    Each process replies to its share of the dialogues, by their `lengths` in tokens.
    """
    indices = sample_dialogues(dialogues, max_dialogues)
    size = len(indices)
    if max_seconds is not None:  # by the hash, so that what is done in time is itself a draw
        indices = sorted(indices, key=lambda index: derive_seed("draw", dialogues.rows[index]["id"]))
        size = DIALOGUES_A_LOOK * collectives.world_size()
    advance = stage("dialogues replied to", len(indices))
    start, done = time.monotonic(), {}
    for first in range(0, len(indices), size):
        part = np.array(indices[first : first + size])
        own = part[local_shard(lengths[part], collectives.world_size(), collectives.rank())]
        production = Production(model, tokenizer, stopped, scale_progress(advance, len(own), len(part)))
        replies = produce_replies([dialogues[index] for index in own.tolist()], how, production)
        if collectives.any_rank(replies is None):
            return None
        for reply in itertools.chain(*collectives.all_gather_objects(replies)):
            done.setdefault(reply.dialogue_id, []).append(reply)
        if max_seconds is not None and collectives.all_reduce_max(time.monotonic() - start) >= max_seconds:
            indices = indices[: first + size]
            break
    order = [dialogues.rows[index]["id"] for index in sorted(indices)]
    return [reply for identifier in order for reply in done.get(identifier, ())], len(indices)


def _loss_sums(
    losses: HeldOutLosses, tokens: TokenDataset, tokenizer: DialogueTokenizer, role: Role, count: bool
) -> np.ndarray:
    sums = np.zeros((len(losses.by_dialogue), 4))
    sums[:, :2] = losses.of((role, Role.END))
    if count:  # of the text that the tokens say: truncation may have taken some of a turn
        for _, ids, spans in tokens.chunks():
            ends = np.cumsum(spans.lengths)
            dialogues = np.repeat(spans.dialogues, spans.counts)
            for span in np.flatnonzero((spans.roles == role) & (spans.lengths > 0)):
                text = tokenizer.decode(ids[ends[span] - spans.lengths[span] : ends[span]].tolist())
                sums[dialogues[span], 2:] += count_words_and_bytes([text])
    return sums
