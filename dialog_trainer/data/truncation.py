"""Truncation policies: the spans of a dialogue -> sequences of at most `max_len` tokens (at least 2).

`keep_start`  the first `max_len` tokens; a long dialogue loses its end-of-text token (the original program).
`keep_end`    `[CLS]` and the last `max_len - 1` tokens; the first kept turn may lose its beginning.
`split`       as few sequences as possible, of complete exchanges: a user turn and the answers to it. An exchange that
              does not fit alone is cut, its long turns to equal lengths: the last one loses its end (and its `[SEP]`),
              an earlier one its beginning. The end-of-text token is kept only behind a complete last turn.

Every turn is in exactly one sequence, with the number of tokens that it lost; a turn that lost all of them comes before
the next kept turn. The end of text is the last span of the last sequence, kept or lost. `split` at 8 tokens:

    turns      u u u [SEP]   a a a a a [SEP]   u [SEP]   a [SEP]
    sequences  [CLS] u u [SEP] a a a a         the user's turn lost 1 token, the assistant's 2
               [CLS] u [SEP] a [SEP] <end>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from dialog_trainer.data.formatting import end_span, start_sequence
from dialog_trainer.types import Role, Span, SpecialTokens, TokenSequence

TruncationPolicy = Callable[[Sequence[Span], SpecialTokens, int], list[TokenSequence]]


def keep_start(turns: Sequence[Span], special_tokens: SpecialTokens, max_len: int) -> list[TokenSequence]:
    spans, room = [], max_len - 1
    for span in (*turns, end_span(turns, special_tokens)):
        spans.append(keep_first(span, room))
        room -= len(spans[-1].ids)
    return [start_sequence(spans, special_tokens)]


def keep_end(turns: Sequence[Span], special_tokens: SpecialTokens, max_len: int) -> list[TokenSequence]:
    spans, room = [], max_len - 1
    for span in (end_span(turns, special_tokens), *reversed(turns)):
        spans.append(keep_last(span, room))
        room -= len(spans[-1].ids)
    return [start_sequence(spans[::-1], special_tokens)]


def split(turns: Sequence[Span], special_tokens: SpecialTokens, max_len: int) -> list[TokenSequence]:
    room = max_len - 1
    exchanges = group_exchanges(turns)
    exchanges[-1].append(end_span(turns, special_tokens))
    parts: list[list[Span]] = [[]]
    for exchange in exchanges:
        if parts[-1] and count_tokens(parts[-1]) + count_tokens(exchange) > room:
            parts.append([])
        parts[-1] += exchange if count_tokens(exchange) <= room else _cut_exchange(exchange, room)
    for part, following in pairwise(parts):
        while not part[-1].ids:
            following.insert(0, part.pop())
    return [start_sequence(part, special_tokens) for part in parts]


def group_exchanges(turns: Sequence[Span]) -> list[list[Span]]:
    """Groups of turns, each starting at a user turn (turns before the first user turn join its group)."""
    groups: list[list[Span]] = []
    seen_user = False
    for turn in turns:
        if not groups or (turn.role == Role.USER and seen_user):
            groups.append([])
        seen_user = seen_user or turn.role == Role.USER
        groups[-1].append(turn)
    return groups


def _cut_exchange(exchange: Sequence[Span], room: int) -> list[Span]:
    """An exchange that does not fit, cut to `room` tokens; the end of text stays only behind a complete last turn."""
    if exchange[-1].role != Role.END:
        return cut_turns(exchange, room)
    *turns, end = exchange
    if room > 1:
        cut = cut_turns(turns, room - 1)
        if not cut[-1].lost:
            return [*cut, end]
    return [*cut_turns(turns, room), keep_first(end, 0)]


def cut_turns(turns: Sequence[Span], room: int) -> list[Span]:
    """Short turns stay complete, long ones get equal parts of the rest; the last turns are lost where none is left."""
    kept = turns[:room]
    *earlier, last = zip(kept, _divide_room([len(turn.ids) for turn in kept], room), strict=True)
    return [
        *(keep_last(turn, length) for turn, length in earlier),
        keep_first(*last),
        *(keep_first(turn, 0) for turn in turns[room:]),
    ]


def _divide_room(lengths: Sequence[int], room: int) -> list[int]:
    """Parts of `room`, none above its length, as equal as possible (of two cut turns the later gets one token more)."""
    parts = [0] * len(lengths)
    open_indices = list(range(len(lengths)))
    while open_indices:
        level, rest = divmod(room, len(open_indices))
        short = [index for index in open_indices if lengths[index] <= level]
        if not short:
            for place, index in enumerate(reversed(open_indices)):
                parts[index] = level + (place < rest)
            break
        for index in short:
            parts[index] = lengths[index]
            room -= lengths[index]
        open_indices = [index for index in open_indices if index not in short]
    return parts


def keep_first(span: Span, count: int) -> Span:
    lost = max(0, len(span.ids) - count)
    return replace(span, ids=span.ids[: len(span.ids) - lost], lost=lost) if lost else span


def keep_last(span: Span, count: int) -> Span:
    lost = max(0, len(span.ids) - count)
    return replace(span, ids=span.ids[lost:], lost=lost) if lost else span


def count_tokens(spans: Sequence[Span]) -> int:
    return sum(len(span.ids) for span in spans)


TRUNCATIONS: dict[str, TruncationPolicy] = {"keep_start": keep_start, "keep_end": keep_end, "split": split}
