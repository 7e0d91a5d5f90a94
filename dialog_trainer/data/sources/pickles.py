"""The original program's pickles, a list of tuples of strings, read without running what they hold."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.sources.row_format import RowError, parse_row
from dialog_trainer.errors import DataError
from dialog_trainer.types import Turn


class _PlainUnpickler(pickle.Unpickler):
    """Loads lists, tuples and strings; refuses every name, so that a pickle cannot run code."""

    def find_class(self, module: str, name: str) -> type:
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}")


def read_pickle(path: Path) -> Iterator[tuple[str, list[Turn]]]:
    """The index and the turns of each dialogue. Raises `DataError`."""
    with path.open("rb") as file:
        try:
            content = _PlainUnpickler(file).load()
        except Exception as error:  # bytes that are no pickle raise nearly every kind
            raise DataError(f"{path} is refused: {error}; only plain lists, tuples and strings are loaded") from None
    if not isinstance(content, list):
        raise DataError(f"{path} holds a {type(content).__name__}; expected a list of tuples of strings")
    for index, row in enumerate(content):
        try:
            yield str(index), parse_row({"turns": list(row) if isinstance(row, tuple) else row})
        except RowError as error:
            raise DataError(f"{path}: dialogue {index}: {error}") from None
