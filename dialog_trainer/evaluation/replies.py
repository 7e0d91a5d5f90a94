"""Replies to held-out contexts, by the protocol `response`: one to every context that ends before a turn of one role.

The context is the gold one (what people said, not what the model said before); it loses whole turns from the left
where it is too long for the window.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from transformers import PreTrainedModel

from dialog_trainer.data.order import seed_of
from dialog_trainer.data.sequences import Marks, context_ids, turn_tokens
from dialog_trainer.data.tables import DialogueTable
from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.model.decoding import greedy_replies
from dialog_trainer.records import Context, Dialogue, Reply, Role


def drawn(table: DialogueTable, max_dialogues: int | None) -> list[int]:
    """Indices of at most `max_dialogues` dialogues, drawn by a hash of their ids: a smaller draw is part of a larger."""
    if max_dialogues is None or max_dialogues >= len(table):
        return list(range(len(table)))
    hashes = ((seed_of("draw", identifier), index) for index, identifier in enumerate(table.rows["id"]))
    return sorted(index for _, index in heapq.nsmallest(max_dialogues, hashes))


def contexts_of(dialogue: Dialogue, vocabulary: Vocabulary, room: int, role: Role) -> list[Context]:
    """A context of at most `room` tokens before each turn of `role` but a first one."""
    texts = [turn.text for turn in dialogue.turns]
    turns = turn_tokens(vocabulary.encode_batch(texts), [turn.role for turn in dialogue.turns], vocabulary.sep_id)
    marks = Marks(vocabulary.cls_id, vocabulary.sep_id, vocabulary.end_id)
    return [
        Context(dialogue.id, index, context_ids(turns[:index], marks, room), tuple(texts[:index]), turn.text)
        for index, turn in enumerate(dialogue.turns)
        if index > 0 and turn.role == role
    ]


def replies_to(
    contexts: list[Context],
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    *,
    max_new_tokens: int,
    batch_tokens: int,
    advance: Callable[[int], None] = lambda replies: None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Reply] | None:
    """Greedy replies in the order of `contexts`; None once `stopped()`."""
    replies: dict[int, Reply] = {}
    produced = greedy_replies(
        model,
        vocabulary,
        [context.ids for context in contexts],
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
        stopped=stopped,
    )
    for index, ids, ended in produced:
        context = contexts[index]
        replies[index] = Reply(
            context.dialogue_id,
            context.turn_index,
            context.history,
            context.reference,
            vocabulary.decode(ids).strip(),
            ended,
        )
        advance(1)
    if len(replies) < len(contexts):
        return None
    return [replies[index] for index in range(len(contexts))]
