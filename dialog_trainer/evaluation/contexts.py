"""Which held-out dialogues are replied to, their contexts, and the replies."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection

from transformers import PreTrainedModel

from dialog_trainer.data.dataset import DialogueDataset
from dialog_trainer.data.formatting import format_context
from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.model.generation.generate import generate
from dialog_trainer.model.generation.sampling import GREEDY, Decoding
from dialog_trainer.types import Context, Dialogue, Reply, Role


def sample_dialogues(table: DialogueDataset, max_dialogues: int | None) -> list[int]:
    """Indices of at most `max_dialogues` dialogues, drawn by a hash of their ids: a smaller draw is part of a larger."""
    if max_dialogues is None or max_dialogues >= len(table):
        return list(range(len(table)))
    hashes = ((derive_seed("draw", identifier), index) for index, identifier in enumerate(table.rows["id"]))
    return sorted(index for _, index in heapq.nsmallest(max_dialogues, hashes))


def build_contexts(
    dialogue: Dialogue, tokenizer: DialogueTokenizer, room: int, roles: Collection[Role]
) -> list[Context]:
    """A context of at most `room` tokens before each turn of `roles` but a first one."""
    texts = [turn.text for turn in dialogue.turns]
    turns = tokenizer.encode_turns(texts, [turn.role for turn in dialogue.turns])
    special_tokens = tokenizer.special_tokens
    return [
        Context(
            dialogue.id,
            index,
            format_context(turns[:index], special_tokens, room),
            tuple(texts[:index]),
            turn.text,
            turn.references,
        )
        for index, turn in enumerate(dialogue.turns)
        if index > 0 and turn.role in roles
    ]


def generate_replies(
    contexts: list[Context],
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    *,
    max_new_tokens: int,
    batch_tokens: int,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    advance: Callable[[int], None] = lambda replies: None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Reply] | None:
    """Replies in the order of `contexts`; None once `stopped()`. A sample depends on `seed`, dialogue and turn."""
    replies: dict[int, Reply] = {}
    produced = generate(
        model,
        tokenizer,
        [context.ids for context in contexts],
        decoding=decoding,
        seeds=[derive_seed(seed, context.dialogue_id, context.turn_index) for context in contexts],
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
        stopped=stopped,
    )
    for index, ids, ended in produced:
        replies[index] = contexts[index].answered(tokenizer.decode(ids).strip(), ended)
        advance(1)
    if len(replies) < len(contexts):
        return None
    return [replies[index] for index in range(len(contexts))]
