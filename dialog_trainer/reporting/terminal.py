"""A masked sequence and tables in the terminal, in colour where it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.reporting.tables import TextTable

COLOURS = {
    "system": "magenta",
    "user": "dark_orange",
    "assistant": "dodger_blue1",
    "end": "green",
    "start": "white",
}


def print_sequence(
    console: Console, sequence: Mapping, progress: Sequence[float], points: Sequence[RoleWeights]
) -> None:
    """A sequence as `page_content` takes it: each turn with its weight at every point of `progress`, where the roles
    weigh as in `points`. Tokens are parted by bars, and dim where they weigh 0 at the last point."""
    part = f", part {sequence['part']} of {sequence['parts']}" if sequence["parts"] > 1 else ""
    note = f", {sequence['note']}" if sequence["note"] else ""
    title = f"dialogue {sequence['id']}{part}: {sequence['tokens']:,} tokens{note}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("role")
    table.add_column("turn", justify="right")
    for point in progress:
        table.add_column(f"at {point:.2f}", justify="right")
    table.add_column("tokens", overflow="fold")
    for run in sequence["runs"]:
        factors = [run["lot"] if at.by_lot and run["lot"] else run["weight"] for at in points]
        weights = [a * at.user + b * at.assistant + c for (a, b, c), at in zip(factors, points, strict=True)]
        style = f"{'dim ' if weights[-1] == 0 else ''}{COLOURS[run['role']]}"
        tokens = Text("|").join(Text(printable(text), style=style) for text in run["texts"])
        if run["lost"]:
            tokens.append(f" ({run['lost']:,} tokens lost)", style="red")
        shown = [f"{weight:.3g}" for weight in weights]
        table.add_row(Text(run["role"], style=style), str(run["turn"]), *shown, tokens)
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
