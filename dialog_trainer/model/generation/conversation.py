"""The history of a conversation, and the context of the model's next reply."""

from __future__ import annotations

from dialog_trainer.data.formatting import format_context
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.types import Role, Span


class LineTooLong(ValueError):
    """A line that exceeds the context window even without any history."""


class Conversation:
    """Alternating turns, the user's first. `window` bounds context and reply together, in tokens."""

    def __init__(self, tokenizer: DialogueTokenizer, *, window: int, max_new_tokens: int):
        self._tokenizer = tokenizer
        self._max_context_tokens = window - max_new_tokens
        self._texts: list[str] = []

    def ask(self, line: str) -> list[int]:
        """Adds the user's line and returns the context; a context that is too long loses whole turns from the left.

        Raises `LineTooLong`, with the history unchanged.
        """
        (turn,) = self._encode([line])
        if len(turn.ids) + 1 > self._max_context_tokens:
            raise LineTooLong(
                f"that line has {len(turn.ids):,} tokens and the window holds {self._max_context_tokens - 1:,}: "
                "send a shorter one"
            )
        self._texts.append(line)
        return format_context(self._encode(self._texts), self._tokenizer.special_tokens, self._max_context_tokens)

    def answer(self, reply: str) -> None:
        """Adds the model's reply; an empty one removes the user's line, so that turns keep alternating."""
        if reply:
            self._texts.append(reply)
        else:
            self._texts.pop()

    def reset(self) -> None:
        """Forgets all turns."""
        self._texts.clear()

    def _encode(self, texts: list[str]) -> list[Span]:
        roles = [Role.ASSISTANT if index % 2 else Role.USER for index in range(len(texts))]
        return self._tokenizer.encode_turns(texts, roles)
