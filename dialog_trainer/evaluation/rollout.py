"""Replies by the protocol `rollout`: the model goes on from the first user turn and plays both roles.

A dialogue has as many turns as people gave it; each is scored against the one that they said at its place. What the
model said, not what they did, is the context of its next turn. A system turn stays as it is. An end-of-text token ends
a turn as a separator does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dialog_trainer.data.formatting import format_context
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.types import Context, Dialogue, Reply, Role, Span, SpecialTokens


class _Played:
    """A dialogue as far as it is played."""

    def __init__(self, dialogue: Dialogue, tokenizer: DialogueTokenizer):
        self.dialogue, self._vocabulary = dialogue, tokenizer
        self.texts: list[str] = []
        self._tokens: list[Span] = []
        first_user = next((i for i, turn in enumerate(dialogue.turns) if turn.role == Role.USER), 0)
        for turn in dialogue.turns[: first_user + 1]:
            self.add(turn.text)
        self.add_system_turns()

    def add(self, text: str) -> None:
        index = len(self.texts)
        self._tokens += self._vocabulary.encode_turns([text], [self.dialogue.turns[index].role], first_turn=index)
        self.texts.append(text)

    def add_system_turns(self) -> None:
        while not self.over() and self.dialogue.turns[len(self.texts)].role == Role.SYSTEM:
            self.add(self.dialogue.turns[len(self.texts)].text)

    def over(self) -> bool:
        return len(self.texts) == len(self.dialogue.turns)

    def context(self, special_tokens: SpecialTokens, room: int) -> Context:
        index = len(self.texts)
        gold = self.dialogue.turns[index]
        ids = format_context(self._tokens, special_tokens, room)
        return Context(self.dialogue.id, index, ids, tuple(self.texts), gold.text, gold.references)


def roll_out(
    dialogues: Sequence[Dialogue],
    tokenizer: DialogueTokenizer,
    room: int,
    reply: Callable[[list[Context]], list[Reply] | None],
    advance: Callable[[int], None] = lambda dialogues: None,
) -> list[Reply] | None:
    """The replies of each dialogue in turn; `reply` makes those to a list of contexts, in their order. None once it does.

    `advance` is told how many dialogues were ended.
    """
    special_tokens = tokenizer.special_tokens
    played = [_Played(dialogue, tokenizer) for dialogue in dialogues]
    advance(sum(one.over() for one in played))
    made: dict[int, list[Reply]] = {number: [] for number in range(len(played))}
    while going_on := [number for number, one in enumerate(played) if not one.over()]:
        replies = reply([played[number].context(special_tokens, room) for number in going_on])
        if replies is None:
            return None
        for number, found in zip(going_on, replies, strict=True):
            made[number].append(found)
            played[number].add(found.text)
            played[number].add_system_turns()
        advance(sum(played[number].over() for number in going_on))
    return [found for replies in made.values() for found in replies]
