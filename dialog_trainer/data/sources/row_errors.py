"""Errors of rows: one row's, and all those of a split together, with their places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from dialog_trainer.data.sources.roles import describe_unknown
from dialog_trainer.errors import DataError
from dialog_trainer.types import Role

MAX_REASONS = 10


class RowError(ValueError):
    """A row that is not a dialogue. The reader adds file and line to the message."""


class UnknownRoleError(RowError):
    """Names of roles that are not known, one for each turn that has such a name; the roles of the others."""

    def __init__(self, message: str, names: Sequence[str], known: Set[Role]):
        super().__init__(message)
        self.names, self.known = names, known


class RowErrors:
    """The errors of a split, those alike in one line. Unknown names of roles are counted, to name the most frequent ones."""

    def __init__(self, max_names: int = 10_000):
        # Reason -> its first and last place, and the number of its rows.
        self._places: dict[str, tuple[str, str, int]] = {}
        self._rows = 0
        self._unknown: Counter[str] = Counter()
        self._first_unknown, self._known = "", set[Role]()
        self._max_names = max_names

    def __bool__(self) -> bool:
        return bool(self._rows or self._unknown)

    def add(self, place: str, error: RowError) -> None:
        if isinstance(error, UnknownRoleError):
            self._first_unknown = self._first_unknown or place
            self._known |= error.known
            self._unknown.update(name for name in error.names if len(self._unknown) < self._max_names)
            return
        self._rows += 1
        reason = str(error)
        if reason in self._places or len(self._places) < MAX_REASONS:
            first, _, count = self._places.get(reason, (place, place, 0))
            self._places[reason] = first, place, count + 1

    def raise_any(self, *more: str) -> None:
        """Raises one `DataError` with all errors, if there are any, and the lines `more`."""
        lines = []
        for reason, (first, last, count) in self._places.items():
            lines.append(f"{first}: {reason}" + (f" (in {count:,} rows, the last {last})" if count > 1 else ""))
        others = self._rows - sum(count for _, _, count in self._places.values())
        lines += [f"and {others:,} rows for other reasons"] if others else []
        if lines:
            lines.insert(0, f"rows that are not dialogues: {self._rows:,}; none can be skipped, fix or remove them:")
        if self._unknown:
            lines.append(describe_unknown(self._unknown, self._first_unknown, self._known))
        if lines:
            raise DataError("\n".join([*lines, *more]))
