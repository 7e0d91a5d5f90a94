"""Errors of rows: one row's, and all those of a split together, with their places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dialog_trainer.data.sources.roles import describe_unknown
from dialog_trainer.errors import DataError

MAX_ERRORS = 10


class RowError(ValueError):
    """A row that is not a dialogue. The reader adds file and line to the message."""


class UnknownRoleError(RowError):
    """Names of roles that are not known, one for each turn that has such a name."""

    def __init__(self, message: str, names: Sequence[str]):
        super().__init__(message)
        self.names = names


class RowErrors:
    """The errors of a split. Unknown names of roles are counted, to name the most frequent ones in one message."""

    def __init__(self, max_names: int = 10_000):
        self._lines: list[str] = []
        self._unknown: Counter[str] = Counter()
        self._first_unknown = ""
        self._max_names = max_names

    def __bool__(self) -> bool:
        return bool(self._lines or self._unknown)

    def add(self, place: str, error: RowError) -> None:
        """Raises `DataError` with the errors so far once there are too many."""
        if isinstance(error, UnknownRoleError):
            self._first_unknown = self._first_unknown or place
            self._unknown.update(name for name in error.names if len(self._unknown) < self._max_names)
            return
        self._lines.append(f"{place}: {error}")
        if len(self._lines) >= MAX_ERRORS:
            self._lines.append("(the rest of the data was not read)")
            self.raise_any()

    def raise_any(self) -> None:
        """Raises one `DataError` with all errors, if there are any."""
        lines = ["these rows are not dialogues; fix or remove them:", *self._lines] if self._lines else []
        if self._unknown:
            lines.append(describe_unknown(self._unknown, self._first_unknown))
        if lines:
            raise DataError("\n".join(lines))
