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
    """Names of roles that are not known, one for each turn that has such a name; whether other names of the dialogue are."""

    def __init__(self, message: str, names: Sequence[str], others_are_known: bool):
        super().__init__(message)
        self.names, self.others_are_known = names, others_are_known


class RowErrors:
    """The errors of a split, those alike in one line. Unknown names of roles are counted, to name the most frequent ones."""

    def __init__(self, max_names: int = 10_000):
        # Reason -> the places of its rows.
        self._places: dict[str, list[str]] = {}
        self._unknown: Counter[str] = Counter()
        self._first_unknown, self._others_are_known = "", False
        self._max_names = max_names

    def __bool__(self) -> bool:
        return bool(self._places or self._unknown)

    def add(self, place: str, error: RowError) -> None:
        """Raises `DataError` with the errors so far once there are too many."""
        if isinstance(error, UnknownRoleError):
            self._first_unknown = self._first_unknown or place
            self._others_are_known |= error.others_are_known
            self._unknown.update(name for name in error.names if len(self._unknown) < self._max_names)
            return
        self._places.setdefault(str(error), []).append(place)
        if sum(map(len, self._places.values())) >= MAX_ERRORS:
            self.raise_any("(the rest of the data was not read)")

    def raise_any(self, *more: str) -> None:
        """Raises one `DataError` with all errors, if there are any, and the lines `more`."""
        lines = []
        for reason, (first, *others) in self._places.items():
            alike = f" (and {len(others)} more rows, the last {others[-1]})" if others else ""
            lines.append(f"{first}: {reason}{alike}")
        if lines:
            lines.insert(0, "these rows are not dialogues; fix or remove them:")
        if self._unknown:
            lines.append(describe_unknown(self._unknown, self._first_unknown, self._others_are_known))
        if lines:
            raise DataError("\n".join([*lines, *more]))
