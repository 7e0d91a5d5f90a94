"""Prints masked sequences and tables to a terminal, whole at any width, in color where it has color."""

from __future__ import annotations

import io
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.control import Control
from rich.table import Table
from rich.text import Text

from dialog_trainer.errors import DialogTrainerError
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.reporting.tables import TextTable
from dialog_trainer.screen import printable, printable_lines, shorten, write, write_line
from dialog_trainer.streams import ERRORS, find_output, losses

COLORS = {
    "system": "magenta",
    "user": "dark_orange",
    "assistant": "dodger_blue1",
    "end": "green",
    "format": "white",
}
GAP = "  "
# A first column narrower than this is not worth reading: columns move below instead.
MIN_FIRST_COLUMN = 16


class RunConsole(Console):
    """A console that keeps all it prints, without bars and colors, for the log of a run.

    `log_to` writes to the log what was printed before it, too.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._log_file: TextIO = io.StringIO()
        self._log_console = Console(file=self._log_file, force_terminal=False, color_system=None, _environ={})

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if not any(isinstance(one, Control) for one in objects):  # how a live bar asks to be drawn
            self._log_console.print(*objects, **options)
        self._report_losses()

    def keep_line(self, line: str) -> None:
        """A line for the log alone."""
        print_line(self._log_console, line)

    def keep_bytes(self, data: bytes) -> None:
        """A part of what goes to standard error, for the log."""
        write(data.decode("utf-8", "replace"), self._log_file)

    def _report_losses(self) -> None:
        while losses:
            name, error = losses.pop()
            line = f"note: {name} is gone ({error.strerror}); the work goes on, and logs of a run hold what it prints"
            if name == ERRORS:
                self.keep_line(line)
            else:
                write_line(line, sys.stderr)

    @contextmanager
    def log_to(self, log: TextIO) -> Iterator[None]:
        """Within the block everything goes to `log` too, and so does what ends the block: an error, with its traceback
        where it is not one that its message explains; a note at the error then names the log."""
        write(self._log_file.getvalue() if isinstance(self._log_file, io.StringIO) else "", log)
        self._switch_to(log)
        try:
            yield
        except DialogTrainerError as error:
            self.keep_line(str(error))
            raise
        except Exception as error:
            write("".join(traceback.format_exception(error)), log)
            error.add_note(f"the traceback is in {log.name}")
            raise
        finally:
            self._switch_to(io.StringIO())
            log.close()

    def _switch_to(self, file: TextIO) -> None:
        self._log_file = self._log_console.file = file


def open_console() -> RunConsole:
    """The console of a process, on standard output; what goes to standard error is kept for the log too."""
    console = RunConsole(file=sys.stdout)
    errors = find_output(sys.stderr)
    if errors:
        errors.copy = console.keep_bytes
    return console


def print_line(console: Console, line: str, style: str = "") -> None:
    """Prints a line as it is: without markup, unbroken, bounded, with control characters written out."""
    console.print(Text(printable_lines(shorten(line)), style=style), soft_wrap=True)


def print_sequence(
    console: Console, sequence: Mapping[str, Any], progress: Sequence[float], points: Sequence[RoleWeights]
) -> None:
    """Prints a sequence as `render_mask_page` takes it: each span with its loss weight at every point of `progress`.

    `points` are the weights of the roles there. Bars separate tokens; tokens of weight 0 at the last point are dim.
    """
    part = f", part {sequence['part']} of {sequence['parts']}" if sequence["parts"] > 1 else ""
    note = f", {sequence['note']}" if sequence["note"] else ""
    unit = "token" if sequence["tokens"] == 1 else "tokens"
    title = Text(printable(f"dialogue {sequence['id']}{part}: {sequence['tokens']:,} {unit}{note}"))
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("role", no_wrap=True)
    table.add_column("turn", justify="right", no_wrap=True)
    for point in progress:
        table.add_column(f"weight\nat {point:.2f}", justify="right", no_wrap=True)
    table.add_column("tokens", overflow="fold")
    for span in sequence["spans"]:
        factors = [
            span["random_weight"] if point.random_roles and span["random_weight"] else span["weight"]
            for point in points
        ]
        weights = [a * point.user + b * point.assistant + c for (a, b, c), point in zip(factors, points, strict=True)]
        style = f"{'dim ' if weights[-1] == 0 else ''}{COLORS[span['role']]}"
        tokens = Text("|").join(Text(printable(text), style=style) for text in span["texts"])
        if span["lost"]:
            tokens.append(f" ({span['lost']:,} tokens truncated)", style="red")
        table.add_row(Text(span["role"], style=style), str(span["turn"]), *(f"{w:.3g}" for w in weights), tokens)
    console.print(table)
    console.print()


def print_tables(console: Console, tables: Sequence[TextTable]) -> None:
    """Prints tables as wide as a terminal is; into a file or a pipe each row is one line."""
    for table in tables:
        print_line(console, table.title, style="bold")
        for line in layout_table(table, console.width if console.is_terminal else None):
            print_line(console, line)
        console.print()


def print_texts(console: Console, table: TextTable) -> None:
    """Prints a table of sentences, each wrapped in its column, within the width of the terminal."""
    title = Text(printable(table.title))
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 1, 0), pad_edge=False)
    for head in table.head:
        shown.add_column(head, overflow="fold", ratio=1)
    for row in table.rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    console.print(shown)


def layout_table(table: TextTable, width: int | None) -> list[str]:
    """Lines of a table, where possible at most `width` characters long (None: of any length).

    No word and no number is broken: headings wrap, then the first column wraps, then the last columns move below.
    """
    cells = [[printable(cell) for cell in row] for row in (table.head, *table.rows)]
    columns = [list(column) for column in zip(*cells, strict=True)]
    full = [max(map(len, column)) for column in columns]
    if width is None or sum(full) + len(GAP) * (len(full) - 1) <= width:
        return _layout_block(columns, len(cells), full)
    widths = [max(map(len, [*column[0].split(), *column[1:]])) for column in columns]
    first = columns[0]
    longest_word = max(len(word) for cell in first for word in cell.split() or [""])
    least = min(widths[0], max(longest_word, MIN_FIRST_COLUMN))
    lines: list[str] = []
    rest = list(range(1, len(columns)))
    while rest or not lines:
        taken = 0
        while taken < len(rest) and least + sum(len(GAP) + widths[i] for i in rest[: taken + 1]) <= width:
            taken += 1
        block, rest = rest[: max(taken, 1)], rest[max(taken, 1) :]
        room = width - sum(len(GAP) + widths[i] for i in block)
        block_widths = [max(least, min(widths[0], room)), *(widths[i] for i in block)]
        lines += [""] * bool(lines)
        lines += _layout_block([first, *(columns[i] for i in block)], len(cells), block_widths)
    return lines


def _layout_block(columns: Sequence[Sequence[str]], num_rows: int, widths: Sequence[int]) -> list[str]:
    """The first column to the left, the others to the right; headings at the bottom of their row."""
    lines = []
    for row in range(num_rows):
        wrapped = [
            textwrap.wrap(column[row], width, break_long_words=False, break_on_hyphens=False) or [""]
            for column, width in zip(columns, widths, strict=True)
        ]
        height = max(map(len, wrapped))
        padded = [[""] * (height - len(cell)) + cell if row == 0 else cell + [""] * height for cell in wrapped]
        for number in range(height):
            texts = [cell[number] for cell in padded]
            right = [text.rjust(width) for text, width in zip(texts[1:], widths[1:], strict=True)]
            lines.append(GAP.join([texts[0].ljust(widths[0]), *right]).rstrip())
    return lines
