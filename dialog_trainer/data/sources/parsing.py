"""Rows of a split -> dialogues, with all errors of the rows in one message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dialog_trainer.data.sources.protocol import RawDialogue, hash_fraction
from dialog_trainer.data.sources.reading import MAX_LINE_BYTES
from dialog_trainer.data.sources.row_errors import RowError, RowErrors
from dialog_trainer.data.sources.row_format import MAX_TURNS, RowParser
from dialog_trainer.errors import DataError

# The id of a row, unique in its split; its place for messages; its value, or why it has none.
Row = tuple[str, str, object]
# Dialogues whose rows must be together are remembered up to this number.
MAX_REMEMBERED = 1_000_000
# Rows looked through for errors after the first one.
MAX_ROWS_AFTER_ERROR = 200_000


def parse_rows(rows: Iterable[Row], parser: RowParser, shared: bool = False) -> Iterator[RawDialogue]:
    """The dialogues of rows. After the first error no dialogue is given: the rest is read for its errors.

    Raises one `DataError` with the errors of the rows; or one of what is mapped but in no row, unless the mappings are
    `shared` with other sources.
    """
    errors, rows_after_error = RowErrors(), 0
    for identifier, place, value in _join_utterances(rows, parser):
        if errors:
            rows_after_error += 1
            if rows_after_error > MAX_ROWS_AFTER_ERROR:
                errors.raise_any("(the rest of the data was not read)")
        try:
            if isinstance(value, RowError):
                raise value
            turns = parser.parse_utterances(value.rows) if isinstance(value, _Utterances) else parser.parse(value)
        except RowError as error:
            errors.add(place, error)
        except RecursionError:
            errors.add(place, RowError("nested too deeply"))
        else:
            if not errors:
                yield identifier, turns
    if not errors and not shared:
        for unused in parser.find_unused().values():
            raise DataError(unused)
    errors.raise_any()


def hold_out(
    rows: Iterable[Row], parser: RowParser, share: float, split: str, shared: bool = False
) -> Iterator[RawDialogue]:
    """The dialogues of `split` where a hash of their text holds `share` of the training data out for validation.

    `parser.by_position` counts those of this split alone.
    """
    by_position = 0
    for identifier, turns in parse_rows(rows, parser, shared):
        is_held_out = hash_fraction(*(turn.text for turn in turns)) < share
        if is_held_out == (split == "validation"):
            by_position = parser.by_position
            yield identifier, turns
        parser.by_position = by_position


class _Utterances:
    """The rows of one dialogue, and the length of their texts in characters."""

    def __init__(self, dialogue: str):
        self.dialogue, self.rows, self.size = dialogue, list[dict[str, Any]](), 0

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.size += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self.rows) > MAX_TURNS or self.size > MAX_LINE_BYTES:
            raise RowError(f"dialogue {self.dialogue!r} is too long; divide it into shorter dialogues")


def _join_utterances(rows: Iterable[Row], parser: RowParser) -> Iterator[Row]:
    """The rows, where those of single utterances are joined to dialogues."""
    seen: set[int] = set()
    first: tuple[str, str] = ("", "")
    joined: _Utterances | None = None
    for identifier, place, value in rows:
        error = None
        try:
            dialogue = None if isinstance(value, RowError) else parser.find_dialogue(value)
            if joined is not None and joined.dialogue != dialogue:
                yield *first, joined
                joined = None
            if dialogue is None:
                yield identifier, place, value
                continue
            if joined is None:
                if hash(dialogue) in seen:
                    raise RowError(f"dialogue {dialogue!r} is in more than one place; sort the rows by dialogue")
                if len(seen) < MAX_REMEMBERED:
                    seen.add(hash(dialogue))
                first, joined = (identifier, place), _Utterances(dialogue)
            assert isinstance(value, dict)
            joined.add(value)
        except RowError as found:
            error = found
        if error is not None:
            joined = None
            yield identifier, place, error
    if joined is not None:
        yield *first, joined
