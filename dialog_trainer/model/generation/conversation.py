"""The history of a conversation, and the context of the model's next reply."""

from __future__ import annotations

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.types import Role, Turn

UNBOUNDED = 2**31


class LineTooLong(ValueError):
    """A line that exceeds the context window even without any history."""


class Conversation:
    """Alternating turns, the user's first, behind a system turn if `system` is given.

    `window` bounds context and reply together, in tokens. Raises `ValueError` for a chat format without system turns.
    """

    def __init__(self, tokenizer: DialogueTokenizer, *, window: int, max_new_tokens: int, system: str | None = None):
        if system and not tokenizer.chat_format.has_system:
            raise ValueError(f"the chat format {tokenizer.chat_format.name} has no system turn")
        self._format = tokenizer.chat_format
        self._max_context_tokens = window - max_new_tokens
        self._system = [Turn(Role.SYSTEM, system)] if system else []
        self._texts: list[str] = []
        self._start = 0  # of the context, in the history

    def ask(self, line: str) -> list[int]:
        """Adds the user's line and returns the context; a context that is too long loses whole exchanges from the left.

        Raises `LineTooLong`, with the history unchanged.
        """
        texts, room = [*self._texts, line], self._max_context_tokens
        # A line that may be too long alone is tried alone first: the history is not encoded with it.
        start = 0 if len(line) <= room or len(self._encode([line])) <= room else len(texts) - 1
        while len(context := self._encode(texts[start:])) > room:
            if start == len(texts) - 1:
                raise LineTooLong(
                    f"that line takes {len(context):,} tokens, and there is room for {room:,}: send a shorter one"
                )
            start += 2
        self._texts, self._start = texts, start
        return context

    def answer(self, reply: str) -> None:
        """Adds the model's reply, and forgets what will not fit again; an empty one removes the user's line, so that turns
        keep alternating."""
        if reply:
            self._texts = [*self._texts[self._start :], reply]
        else:
            self._texts.pop()

    def reset(self) -> None:
        """Forgets all turns."""
        self._texts.clear()

    def _encode(self, texts: list[str]) -> list[int]:
        """The prompt of the reply to `texts`."""
        turns = [Turn(Role.ASSISTANT if index % 2 else Role.USER, text) for index, text in enumerate(texts)]
        turns = [*self._system, *turns, Turn(Role.ASSISTANT, "")]
        (ids,) = self._format.encode_contexts(turns, [len(turns) - 1], UNBOUNDED)
        return ids
