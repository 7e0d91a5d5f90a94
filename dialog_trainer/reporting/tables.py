"""The coverage of a mask over a data set as tables of text, for the terminal and for the mask page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dialog_trainer.masking.coverage import DatasetCoverage
from dialog_trainer.types import NUM_TURN_BINS, Role


@dataclass(frozen=True, slots=True)
class TextTable:
    """Ready text: headings, and rows as long as `head`."""

    title: str
    head: list[str]
    rows: list[list[str]]


def render_markdown_table(table: TextTable) -> list[str]:
    """The lines of a table in Markdown, without its title: the first column to the left, the others to the right."""
    rows = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def build_mask_tables(coverage: DatasetCoverage, progress: Sequence[float]) -> list[TextTable]:
    """Trained tokens by role and by turn at each point of `progress`, what truncation took, and what is untrained."""
    points = [f"trained at progress {point:.2f}" for point in progress]
    counts = coverage.counts
    by_role = [
        _trained_row(role.name.lower(), counts.tokens[role].sum(), counts.trained[:, role].sum(1))
        for role in (Role.USER, Role.ASSISTANT, Role.SYSTEM, Role.END, Role.FORMAT)
        if counts.tokens[role].sum()
    ]
    by_role.append(_trained_row("all", counts.tokens.sum(), counts.trained.sum((1, 2))))
    turn_roles = [Role.USER, Role.ASSISTANT, Role.SYSTEM]
    turn_tokens, trained = counts.tokens[turn_roles].sum(0), counts.trained[:, turn_roles].sum(1)
    by_turn = [
        _trained_row(_turn_name(turn), turn_tokens[turn], trained[:, turn])
        for turn in range(NUM_TURN_BINS)
        if turn_tokens[turn]
    ]
    untrained = [f"untrained at progress {point:.2f}" for point in progress]
    return [
        TextTable("Tokens by role", ["role", "tokens", *points], by_role),
        TextTable("Tokens by turn", ["turn", "tokens", *points], by_turn),
        TextTable("Truncation", ["unit", "truncated", "of all", "percent"], _truncation_rows(coverage)),
        TextTable("Without a trained token", ["unit", "of all", *untrained], _untrained_rows(coverage)),
    ]


def _turn_name(turn: int) -> str:
    return str(turn) if turn < NUM_TURN_BINS - 1 else f"after {turn - 1}"


def _truncation_rows(coverage: DatasetCoverage) -> list[list[str]]:
    counts, num_dialogues = coverage.counts, len(coverage.lost)
    rows = [
        ("tokens of turns", counts.lost_tokens, counts.turn_tokens),
        ("turns cut", counts.cut_turns, counts.turns),
        ("turns removed", counts.lost_turns, counts.turns),
        ("ends of dialogues removed", counts.lost_ends, num_dialogues),
        ("dialogues with any of these", (coverage.lost > 0).sum(), num_dialogues),
    ]
    return [[unit, f"{lost:,}", f"{total:,}", _percent(lost, total)] for unit, lost, total in rows]


def _untrained_rows(coverage: DatasetCoverage) -> list[list[str]]:
    dialogues = [f"{(trained == 0).sum():,}" for trained in coverage.trained]
    sequences = [f"{count:,}" for count in coverage.counts.untrained]
    return [
        ["dialogues", f"{len(coverage.lost):,}", *dialogues],
        ["sequences", f"{coverage.counts.sequences:,}", *sequences],
    ]


def _trained_row(name: str, tokens: int, trained: np.ndarray) -> list[str]:
    return [name, f"{tokens:,}", *(_percent(count, tokens) for count in trained)]


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "-"
