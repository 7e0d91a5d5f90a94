"""Cuts the spans of a dialogue in a chat template to a number of tokens; what the template writes is kept whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dialog_trainer.data.template_layout import TemplateRefusal
from dialog_trainer.data.truncation import count_tokens, cut_turns, keep_first, keep_last
from dialog_trainer.types import Role, Span, Turn


def count_system_turns(turns: Sequence[Turn]) -> int:
    """The number of system turns at the beginning."""
    return next((index for index, turn in enumerate(turns) if turn.role != Role.SYSTEM), len(turns))


def find_exchange_starts(turns: Sequence[Turn], first: int) -> list[int]:
    """Where exchanges start: at `first`, and at each user turn behind the first one."""
    users = [index for index in range(first, len(turns)) if turns[index].role == Role.USER]
    return [first, *users[1:]]


def mark_repeated(spans: Sequence[Span], first_new: int) -> list[Span]:
    """Turns before `first_new` are in an earlier sequence: here they are context."""
    return [
        replace(span, role=Role.FORMAT, lost=0) if span.role != Role.FORMAT and span.turn < first_new else span
        for span in spans
    ]


def cut_to(spans: Sequence[Span], max_len: int) -> list[Span]:
    """Long turns cut to equal lengths; the last one loses its end, and what the template writes behind it."""
    turns = [span for span in spans if span.role != Role.FORMAT]
    cut = iter(cut_turns(turns, _room(spans, max_len)))
    fitted = [span if span.role == Role.FORMAT else next(cut) for span in spans]
    while fitted[-1].role == Role.FORMAT:
        fitted.pop()
    return fitted


def keep_beginning(spans: Sequence[Span], max_len: int) -> list[Span]:
    kept, room = [], max_len
    for span in spans:
        shorter = keep_first(span, max(0, room))
        room -= len(span.ids)
        if span.role != Role.FORMAT:
            kept.append(shorter)
        elif shorter.ids:
            kept.append(replace(shorter, lost=0))
    return kept


def keep_end_of_turns(spans: Sequence[Span], max_tokens: int) -> list[Span]:
    """The end of the turns; all that the template writes is kept."""
    kept, room = [], _room(spans, max_tokens)
    for span in reversed(spans):
        if span.role != Role.FORMAT:
            span = keep_last(span, max(0, room))
            room -= len(span.ids)
        kept.append(span)
    return kept[::-1]


def _room(spans: Sequence[Span], max_tokens: int) -> int:
    """Tokens that are left for turns."""
    own = count_tokens([span for span in spans if span.role == Role.FORMAT])
    if own >= max_tokens:
        raise TemplateRefusal(
            f"what it adds to the turns takes {own} tokens, of {max_tokens} in all; use a larger model.max_len"
        )
    return max_tokens - own
