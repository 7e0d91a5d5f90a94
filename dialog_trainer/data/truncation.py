"""data.truncation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dialog_trainer.data.formatting import TurnTokens, join_turns
from dialog_trainer.types import Role, SpecialTokens, TokenSequence


def keep_start(turns: Sequence[TurnTokens], special_tokens: SpecialTokens, max_len: int) -> list[TokenSequence]:
    full = join_turns(turns, special_tokens, ends=True)
    return [TokenSequence(full.ids[:max_len], full.roles[:max_len], full.turns[:max_len])]


def keep_end(turns: Sequence[TurnTokens], special_tokens: SpecialTokens, max_len: int) -> list[TokenSequence]:
    full = join_turns(turns, special_tokens, ends=True)
    first = max(1, len(full.ids) - (max_len - 1))
    return [
        TokenSequence(
            [special_tokens.start, *full.ids[first:]],
            [int(Role.START), *full.roles[first:]],
            [full.turns[first], *full.turns[first:]],
        )
    ]


def split(turns: Sequence[TurnTokens], special_tokens: SpecialTokens, max_len: int) -> list[TokenSequence]:
    sequences: list[TokenSequence] = []
    pending: list[TurnTokens] = []
    exchanges = _exchanges(turns)
    for number, exchange in enumerate(exchanges):
        ends = number == len(exchanges) - 1
        if pending and _length(pending) + _length(exchange) + 1 + ends > max_len:
            sequences.append(join_turns(pending, special_tokens, ends=False))
            pending = []
        if not pending and _length(exchange) + 1 + ends > max_len:
            sequences.append(_cut_whole(exchange, special_tokens, max_len, ends))
        else:
            pending.extend(exchange)
    if pending:
        sequences.append(join_turns(pending, special_tokens, ends=True))
    return sequences


def _exchanges(turns: Sequence[TurnTokens]) -> list[list[TurnTokens]]:
    """Groups of turns, each starting at a user turn (what comes before the first user turn joins the first)."""
    groups: list[list[TurnTokens]] = []
    seen_user = False
    for turn in turns:
        if not groups or (turn.role == Role.USER and seen_user):
            groups.append([])
        seen_user = seen_user or turn.role == Role.USER
        groups[-1].append(turn)
    return groups


def _cut_whole(
    exchange: Sequence[TurnTokens], special_tokens: SpecialTokens, max_len: int, ends: bool
) -> TokenSequence:
    """A sequence of an exchange that does not fit; it ends the dialogue only if its last turn is still whole."""
    if ends and max_len > 2:
        cut = _cut(exchange, max_len - 2)
        if cut[-1] == exchange[-1]:
            return join_turns(cut, special_tokens, ends=True)
    return join_turns(_cut(exchange, max_len - 1), special_tokens, ends=False)


def _cut(exchange: Sequence[TurnTokens], room: int) -> list[TurnTokens]:
    """An exchange cut to `room` tokens: short turns stay whole, long ones share what is left equally.

    Turns for which not even one token each is left are dropped from the end.
    """
    kept = list(exchange[:room])
    budget = _budgets([len(turn.ids) for turn in kept], room)
    cut = [
        TurnTokens(turn.ids[len(turn.ids) - size :], turn.role, turn.index)
        for turn, size in zip(kept[:-1], budget[:-1], strict=True)
    ]
    last = kept[-1]
    return [*cut, TurnTokens(last.ids[: budget[-1]], last.role, last.index)]


def _budgets(lengths: Sequence[int], room: int) -> list[int]:
    """Shares of `room`, none above its length, as equal as they can be (of two cut turns the later keeps one more)."""
    shares = [0] * len(lengths)
    open_indices = list(range(len(lengths)))
    while open_indices:
        level = room // len(open_indices)
        short = [index for index in open_indices if lengths[index] <= level]
        if not short:
            left_over = room - level * len(open_indices)
            for place, index in enumerate(reversed(open_indices)):
                shares[index] = level + (place < left_over)
            break
        for index in short:
            shares[index] = lengths[index]
            room -= lengths[index]
        open_indices = [index for index in open_indices if index not in short]
    return shares


def _length(turns: Sequence[TurnTokens]) -> int:
    return sum(len(turn.ids) for turn in turns)


TRUNCATIONS: dict[str, Callable[[Sequence[TurnTokens], SpecialTokens, int], list[TokenSequence]]] = {
    "keep_start": keep_start,
    "keep_end": keep_end,
    "split": split,
}


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one role and turn that stand together; `lost` counts those that truncation took from the turn."""

    role: int
    turn: int
    length: int
    lost: int


def find_spans(sequences: Sequence[TokenSequence], turns: Sequence[TurnTokens]) -> list[list[Span]]:
    """The runs of each sequence of a dialogue, nothing of which goes missing.

    A turn that truncation took whole, and so its end-of-text token, is a run without a token: before the turn that
    follows it, or at the very end.
    """
    found: list[list[Span]] = []
    due = iter(turns)
    for sequence in sequences:
        spans: list[Span] = []
        for (role, turn), tokens in itertools.groupby(zip(sequence.roles, sequence.turns, strict=True)):
            length, lost = sum(1 for _ in tokens), 0
            if role != Role.START:
                for whole_turn in due:
                    if role != Role.END and whole_turn.index == turn:
                        lost = len(whole_turn.ids) - length
                        break
                    spans.append(_lost(whole_turn))
            spans.append(Span(role, turn, length, lost))
        found.append(spans)
    found[-1] += [_lost(turn) for turn in due]
    if found[-1][-1].role != Role.END:
        found[-1].append(Span(Role.END, turns[-1].index, 0, 1))
    return found


def _lost(turn: TurnTokens) -> Span:
    return Span(turn.role, turn.index, 0, len(turn.ids))
