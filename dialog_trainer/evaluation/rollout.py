"""Rollout: the model continues each dialogue from its first user turn and plays both roles.

A dialogue gets as many turns as people gave it; each is scored against the turn that they wrote at the same index. The
context of a turn holds the model's own earlier turns, not theirs. System turns are kept from the data. An end-of-text
token ends a turn as a separator does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.progress import SILENT, Progress
from dialog_trainer.types import Context, Dialogue, Reply, Role, Turn


class _OpenDialogue:
    """The turns of a dialogue so far: those given, then those of the model."""

    def __init__(self, dialogue: Dialogue, tokenizer: DialogueTokenizer):
        self._dialogue, self._tokenizer = dialogue, tokenizer
        self._turns: list[Turn] = []
        self.replies: list[Reply] = []
        first_user = next((i for i, turn in enumerate(dialogue.turns) if turn.role == Role.USER), 0)
        for turn in dialogue.turns[: first_user + 1]:
            self._append(turn.text)
        self._append_system_turns()

    def is_complete(self) -> bool:
        return len(self._turns) == len(self._dialogue.turns)

    def context(self, max_tokens: int) -> Context:
        """The context of the next turn, in at most `max_tokens` tokens."""
        index = len(self._turns)
        gold = self._dialogue.turns[index]
        (ids,) = self._tokenizer.chat_format.encode_contexts([*self._turns, gold], [index], max_tokens)
        texts = tuple(turn.text for turn in self._turns)
        return Context(self._dialogue.id, index, ids, texts, gold.text, gold.references)

    def add_reply(self, reply: Reply) -> None:
        """Adds the next turn, and the system turns that follow it."""
        self.replies.append(reply)
        self._append(reply.text)
        self._append_system_turns()

    def _append(self, text: str) -> None:
        self._turns.append(replace(self._dialogue.turns[len(self._turns)], text=text))

    def _append_system_turns(self) -> None:
        while not self.is_complete() and self._dialogue.turns[len(self._turns)].role == Role.SYSTEM:
            self._append(self._dialogue.turns[len(self._turns)].text)


def roll_out(
    dialogues: Sequence[Dialogue],
    tokenizer: DialogueTokenizer,
    max_context_tokens: int,
    reply: Callable[[list[Context]], list[Reply] | None],
    progress: Progress = SILENT,
) -> list[Reply] | None:
    """The replies of each dialogue in turn; None once `reply` returns None.

    `reply` makes the replies to a list of contexts, in their order: one for each dialogue that is not complete yet.
    `progress` counts complete dialogues.
    """
    rollouts = [_OpenDialogue(dialogue, tokenizer) for dialogue in dialogues]
    progress.advance(sum(one.is_complete() for one in rollouts))
    while unfinished := [one for one in rollouts if not one.is_complete()]:
        replies = reply([one.context(max_context_tokens) for one in unfinished])
        if replies is None:
            return None
        for one, its_reply in zip(unfinished, replies, strict=True):
            one.add_reply(its_reply)
        progress.advance(sum(one.is_complete() for one in unfinished))
    return [its_reply for one in rollouts for its_reply in one.replies]
