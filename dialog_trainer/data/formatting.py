"""Lays turns out as the tokens of a sequence, `[CLS] turn [SEP] turn [SEP] ... <end>`, and as the context of a reply."""

from __future__ import annotations

from collections.abc import Sequence

from dialog_trainer.types import Role, Span, SpecialTokens, TokenSequence


def make_spans(text_ids: Sequence[Sequence[int]], roles: Sequence[int], separator: int) -> list[Span]:
    """Consecutive turns of a dialogue from the ids of their texts, each ended by the separator."""
    turns = enumerate(zip(text_ids, roles, strict=True))
    return [Span(Role(role), turn, (*ids, separator)) for turn, (ids, role) in turns]


def end_span(turns: Sequence[Span], special_tokens: SpecialTokens) -> Span:
    """The end-of-text token behind the last of `turns`."""
    return Span(Role.END, turns[-1].turn, (special_tokens.end,))


def start_sequence(spans: Sequence[Span], special_tokens: SpecialTokens) -> TokenSequence:
    """`[CLS]` and `spans`, at least one of which has tokens."""
    first = next(span.turn for span in spans if span.ids)
    return TokenSequence((Span(Role.FORMAT, first, (special_tokens.start,)), *spans))


def format_context(turns: Sequence[Span], special_tokens: SpecialTokens, max_tokens: int) -> list[int]:
    """`[CLS]` and the turns before a reply, in at most `max_tokens` tokens.

    Complete turns are dropped from the left, so that the first kept one is the user's if possible; of a last turn that
    alone is too long, the end is kept.
    """
    start, length = len(turns) - 1, 1
    for index in reversed(range(len(turns))):
        length += len(turns[index].ids)
        if length > max_tokens:
            break
        if index == 0 or turns[index].role == Role.USER:
            start = index
    ids = [token for turn in turns[start:] for token in turn.ids]
    return [special_tokens.start, *ids[max(0, len(ids) - (max_tokens - 1)) :]]
