"""Writes text to a screen or a log: bounded, and with control characters shown instead of sent.

Texts of data, models, settings, paths and names may hold terminal escapes (ESC, C1 controls), bidirectional overrides
or megabytes. Everything that the package prints goes through here, or through `reporting.terminal.print_line`.
"""

from __future__ import annotations

import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# More than the longest path, so that a printed command can be typed as it stands.
MAX_LINE_CHARACTERS = 5_000
MAX_LINES = 200
SLOW_SECONDS = 0.2
# Invisible characters that spell words and emoji: the zero-width non-joiner and joiner.
_JOINERS = "\u200c\u200d"


def write_line(text: str, file: TextIO | None = None) -> None:
    """Writes a line, or a few, to `file` (None: standard output), bounded; flushes it."""
    write(f"{shorten(text)}\n", file)


@contextmanager
def announce_if_slow(text: str) -> Iterator[None]:
    """Writes what is being done to standard error, once it takes longer than `SLOW_SECONDS`."""
    timer = threading.Timer(SLOW_SECONDS, lambda: write_line(f"{text} ...", sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def write(text: str, file: TextIO | None = None) -> None:
    """Writes all of a text, without a line end of its own, to `file` (None: standard output); flushes it."""
    stream = sys.stdout if file is None else file
    stream.write(printable_lines(text))
    stream.flush()


def printable(text: str) -> str:
    """`text` as part of one line: every control character, line end and tab is written out, as `\\x1b`."""
    return text if text.isprintable() else "".join(map(_show, text))


def printable_lines(text: str) -> str:
    """`text` with its line ends and tabs, and every other control character written out."""
    return text if text.isprintable() else "".join(c if c in "\n\t" else _show(c) for c in text)


def shorten(text: str) -> str:
    """`text` without the middle of a very long line, and without the middle lines of very many: the place comes first in
    a message, and the remedy last."""
    lines = text.split("\n", MAX_LINES + 1)
    if len(lines) > MAX_LINES:
        lines = text.split("\n")
        half = MAX_LINES // 2
        left_out = f"... ({len(lines) - 2 * half:,} lines left out) ..."
        lines = [*lines[:half], left_out, *lines[-half:]]
    return "\n".join(map(_shorten_line, lines))


def _shorten_line(line: str) -> str:
    if len(line) <= MAX_LINE_CHARACTERS:
        return line
    kept = MAX_LINE_CHARACTERS // 5
    return f"{line[: 3 * kept]} ... ({len(line) - 4 * kept:,} characters left out) ... {line[-kept:]}"


def _show(character: str) -> str:
    shown = character.isprintable() or unicodedata.category(character) == "Zs" or character in _JOINERS
    return character if shown else repr(character)[1:-1]
