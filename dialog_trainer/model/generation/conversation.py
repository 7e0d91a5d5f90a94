"""The history of a chat, and the context that the model sees of it."""

from __future__ import annotations

from dialog_trainer.data.formatting import format_context
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.types import Role, Span


class LineTooLong(ValueError):
    """A line that does not fit the window even alone."""


class Conversation:
    """Alternating turns, the user's first. `window` bounds context and reply together, in tokens."""

    def __init__(self, tokenizer: DialogueTokenizer, *, window: int, max_new_tokens: int):
        self._vocabulary = tokenizer
        self._marks = tokenizer.special_tokens
        self._room = window - max_new_tokens
        self._texts: list[str] = []

    def ask(self, line: str) -> list[int]:
        """Adds the user's line and returns the context; whole turns are lost from the left where it is too long.

        Raises `LineTooLong`, with the history unchanged.
        """
        turn = self._turns([line])[0]
        if len(turn.ids) + 1 > self._room:
            raise LineTooLong(
                f"that line has {len(turn.ids):,} tokens and the window holds {self._room - 1:,}: send a shorter one"
            )
        self._texts.append(line)
        return format_context(self._turns(self._texts), self._marks, self._room)

    def answer(self, reply: str) -> None:
        """Adds the model's reply; an empty one takes the user's line with it, so that turns go on alternating."""
        if reply:
            self._texts.append(reply)
        else:
            self._texts.pop()

    def reset(self) -> None:
        self._texts.clear()

    def _turns(self, texts: list[str]) -> list[Span]:
        roles = [Role.ASSISTANT if index % 2 else Role.USER for index in range(len(texts))]
        return self._vocabulary.encode_turns(texts, roles)
