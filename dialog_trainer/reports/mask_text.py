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
    for made in tables:
        table = Table(
            title=made.title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2)
        )
        for index, name in enumerate(made.head):
            table.add_column(name, justify="left" if index == 0 else "right")
        for row in made.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        console.print()


def printable(piece: str) -> str:
    """What a terminal may be given of a text: no control character."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in piece)
