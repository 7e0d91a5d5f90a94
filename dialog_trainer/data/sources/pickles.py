"""Reads the original program's pickles, a list of tuples of strings, without running code from them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.data.sources.row_format import RowError, parse_row
from dialog_trainer.errors import DataError


class _PlainUnpickler(pickle.Unpickler):
    """Loads lists, tuples and strings; refuses every import, so that a pickle cannot run code."""

    def find_class(self, module: str, name: str) -> type:
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}")


def read_pickle(path: Path) -> Iterator[RawDialogue]:
    """The dialogues of a pickle; the id is the index. Raises `DataError`."""
    with path.open("rb") as file:
        try:
            content = _PlainUnpickler(file).load()
        except Exception as error:  # bytes that are not a pickle raise errors of nearly every class
            raise DataError(f"{path} is refused: {error}; only plain lists, tuples and strings are loaded") from None
    if not isinstance(content, list):
        raise DataError(f"{path} holds a {type(content).__name__}; expected a list of tuples of strings")
    for index, row in enumerate(content):
        try:
            yield str(index), parse_row({"turns": list(row) if isinstance(row, tuple) else row})
        except RowError as error:
            raise DataError(f"{path}: dialogue {index}: {error}") from None
