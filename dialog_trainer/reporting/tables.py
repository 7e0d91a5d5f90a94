"""A mask over a data set as tables of ready text: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dialog_trainer.masking.coverage import DatasetCoverage
from dialog_trainer.types import NUM_TURN_BINS, Role


@dataclass(frozen=True, slots=True)
class TextTable:
    title: str
    head: list[str]
    rows: list[list[str]]


def build_mask_tables(found: DatasetCoverage, progress: Sequence[float]) -> list[TextTable]:
    """What is trained by role and by turn at each point of `progress`, what truncation took, what is not trained."""
    points = [f"trained at {point:.2f}" for point in progress]
    counts = found.counts
    by_role = [
        _shares(role.name.lower(), counts.tokens[role].sum(), counts.trained[:, role].sum(1))
        for role in (Role.USER, Role.ASSISTANT, Role.SYSTEM, Role.END, Role.START)
        if counts.tokens[role].sum()
    ]
    by_role.append(_shares("all", counts.tokens.sum(), counts.trained.sum((1, 2))))
    turn_roles = [Role.USER, Role.ASSISTANT, Role.SYSTEM]
    of_turns, trained = counts.tokens[turn_roles].sum(0), counts.trained[:, turn_roles].sum(1)
    by_turn = [
        _shares(str(turn) if turn < NUM_TURN_BINS - 1 else f"after {turn - 1}", of_turns[turn], trained[:, turn])
        for turn in range(NUM_TURN_BINS)
        if of_turns[turn]
    ]
    return [
        TextTable("Tokens by role", ["role", "tokens", *points], by_role),
        TextTable("Tokens by turn", ["turn", "tokens", *points], by_turn),
        TextTable("Truncation", ["what", "lost", "of", "share"], _truncation(found)),
        TextTable("Without a trained token", ["what", "of", *(f"at {p:.2f}" for p in progress)], _untrained(found)),
    ]


def _truncation(found: DatasetCoverage) -> list[list[str]]:
    counts = found.counts
    rows = [
        ("tokens", found.lost.sum(), found.tokens.sum()),
        ("turns, some tokens of", counts.cut_turns, counts.turns),
        ("turns, whole", counts.lost_turns, counts.turns),
        ("ends of dialogues", counts.lost_ends, len(found.lost)),
        ("dialogues, something of", (found.lost > 0).sum(), len(found.lost)),
    ]
    return [[what, f"{lost:,}", f"{of:,}", _percent(lost, of)] for what, lost, of in rows]


def _untrained(found: DatasetCoverage) -> list[list[str]]:
    dialogues = [f"{(trained == 0).sum():,}" for trained in found.trained]
    sequences = [f"{count:,}" for count in found.counts.untrained]
    return [
        ["dialogues", f"{len(found.lost):,}", *dialogues],
        ["sequences", f"{found.counts.sequences:,}", *sequences],
    ]


def _shares(name: str, tokens: int, trained: Sequence[int]) -> list[str]:
    return [name, f"{tokens:,}", *(_percent(count, tokens) for count in trained)]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
