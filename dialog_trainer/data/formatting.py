"""Turns -> `TokenSequence`s, by a named truncation policy, and the context of a reply.

The format is the original program's: `[CLS] turn [SEP] turn [SEP] ... <end>`. Every policy gives sequences of at
most `max_len` tokens.

`keep_start`  the first `max_len` tokens; the end-of-text token is lost with the rest (the original program).
`keep_end`    `[CLS]` and the last `max_len - 1` tokens; the first kept turn may lose its beginning.
`split`       several sequences of whole turns, each starting at a user turn, as few as possible. A user turn with
              the answers to it that does not fit is cut, its long turns to equal lengths: the last one loses its end
              (and its `[SEP]`), an earlier one its beginning. The end-of-text token stands at the true end only, behind
              a last turn that is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dialog_trainer.types import Role, SpecialTokens, TokenSequence


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """One turn as tokens: its text and the separator that ends it. `index` counts within the whole dialogue."""

    ids: tuple[int, ...]
    role: Role
    index: int


def make_turn_tokens(text_ids: Sequence[Sequence[int]], roles: Sequence[int], separator: int) -> list[TurnTokens]:
    """The turns of a dialogue, each ended by the separator."""
    return [
        TurnTokens((*ids, separator), Role(role), index)
        for index, (ids, role) in enumerate(zip(text_ids, roles, strict=True))
    ]


def join_turns(turns: Sequence[TurnTokens], special_tokens: SpecialTokens, ends: bool) -> TokenSequence:
    """All of `turns` as one sequence; `ends` adds the end-of-text token."""
    parts = [TurnTokens((special_tokens.start,), Role.START, turns[0].index), *turns]
    if ends:
        parts.append(TurnTokens((special_tokens.end,), Role.END, turns[-1].index))
    return TokenSequence(
        [token for part in parts for token in part.ids],
        [role for part in parts for role in [int(part.role)] * len(part.ids)],
        [index for part in parts for index in [part.index] * len(part.ids)],
    )


def format_context(turns: Sequence[TurnTokens], special_tokens: SpecialTokens, room: int) -> list[int]:
    """`[CLS]` and the turns before a reply, in at most `room` tokens.

    Whole turns are lost from the left, so that the first kept one is the user's where that is possible; of a last
    turn that is too long alone, the end is kept.
    """
    start, length = len(turns) - 1, 1
    for index in reversed(range(len(turns))):
        length += len(turns[index].ids)
        if length > room:
            break
        if index == 0 or turns[index].role == Role.USER:
            start = index
    ids = [token for turn in turns[start:] for token in turn.ids]
    return [special_tokens.start, *ids[max(0, len(ids) - (room - 1)) :]]
