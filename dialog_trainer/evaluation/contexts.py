"""Which held-out dialogues get replies, and the context of each reply."""

from __future__ import annotations

import heapq
from collections.abc import Collection

from dialog_trainer.data.dataset import DialogueDataset
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import Context, Dialogue, Role


def sample_dialogues(dataset: DialogueDataset, max_dialogues: int | None) -> list[int]:
    """Ascending indices of at most `max_dialogues` dialogues, sampled by a hash of their ids (None: all).

    A smaller sample is a subset of a larger one, whatever the order of the dialogues.
    """
    if max_dialogues is None or max_dialogues >= len(dataset):
        return list(range(len(dataset)))
    hashes = ((derive_seed("draw", identifier), index) for index, identifier in enumerate(dataset.rows.column("id")))
    return sorted(index for _, index in heapq.nsmallest(max_dialogues, hashes))


def build_contexts(
    dialogue: Dialogue, tokenizer: DialogueTokenizer, max_tokens: int, roles: Collection[Role]
) -> list[Context]:
    """One context of at most `max_tokens` tokens for each turn of `roles`, except a dialogue's first turn."""
    turns = dialogue.turns
    texts = [turn.text for turn in turns]
    indices = [index for index, turn in enumerate(turns) if index > 0 and turn.role in roles]
    prompts = tokenizer.chat_format.encode_contexts(turns, indices, max_tokens)
    return [
        Context(dialogue.id, index, ids, tuple(texts[:index]), texts[index], turns[index].references)
        for index, ids in zip(indices, prompts, strict=True)
    ]
