"""A masked sequence and tables in the terminal, in colour where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dialog_trainer.records import Role
from dialog_trainer.reports.mask_tables import TextTable

COLOURS = {
    Role.SYSTEM: "magenta",
    Role.USER: "dark_orange",
    Role.ASSISTANT: "dodger_blue1",
    Role.END: "green",
    Role.START: "white",
}


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run of tokens as people read it: `pieces` is one text a token, `weights` one number a point."""

    role: Role
    turn: int
    position: int
    ids: list[int]
    pieces: list[str]
    lost: int
    weights: list[float]


def print_sequence(console: Console, title: str, runs: Sequence[ShownRun], progress: Sequence[float]) -> None:
    """Each turn with its weight at every point; tokens are parted by bars, and dim where they weigh 0 at the last point."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("role")
    table.add_column("turn", justify="right")
    for point in progress:
        table.add_column(f"at {point:.2f}", justify="right")
    table.add_column("tokens", overflow="fold")
    for run in runs:
        style = f"{'dim ' if run.weights[-1] == 0 else ''}{COLOURS[run.role]}"
        tokens = Text("|").join(Text(printable(piece), style=style) for piece in run.pieces)
        if run.lost:
            tokens.append(f" ({run.lost:,} tokens lost)", style="red")
        weights = [f"{weight:.3g}" for weight in run.weights]
        table.add_row(Text(run.role.name.lower(), style=style), str(run.turn), *weights, tokens)
    console.print(table)
    console.print()


def print_tables(console: Console, tables: Sequence[TextTable]) -> None:
    """Lines of any length: rather lines that the terminal breaks than numbers that are cut."""
    for table in tables:
        console.print(Text(table.title, style="bold"), soft_wrap=True)
        widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
        for row in (table.head, *table.rows):
            first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            line = "  ".join([row[0].ljust(len(first)), *rest]).rstrip()
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print()


def printable(piece: str) -> str:
    """What a terminal may be given of a text: no control character."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in piece)
