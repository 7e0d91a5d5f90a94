"""Rows of JSON files: JSON lines, an array of rows, an object that holds rows, or objects one after another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dialog_trainer.data.sources.json_values import JsonStream, TooLongError, hint_at
from dialog_trainer.data.sources.reading import decode_line, read_lines
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.data.sources.row_format import RowParser
from dialog_trainer.data.sources.unpacking import open_unpacked

# The line of a row, and its value or why it has none.
NumberedRow = tuple[int, object]
# A container that is too large to be looked through for the list that holds the rows: the first list of rows.
UNKNOWN = "\0"


def read_json_lines(path: Path) -> Iterator[NumberedRow]:
    """A row a line."""
    with open_unpacked(path) as file:
        for number, raw in read_lines(file):
            value: object
            try:
                line = decode_line(raw, number).rstrip("\r\n")
                if not line.strip():
                    continue
                value = json.loads(line)
            except RecursionError:
                value = RowError("nested too deeply")
            except json.JSONDecodeError as error:
                value = RowError(f"not JSON: {error.msg} at column {error.colno}{hint_at(line, error)}")
            except ValueError as error:  # RowError, and a number of too many digits
                value = RowError(str(error))
            yield number, value


def read_json(path: Path, parser: RowParser) -> Iterator[NumberedRow]:
    """The rows of a JSON document, one at a time."""
    container: str | None
    with open_unpacked(path) as file:
        stream = JsonStream(file)
        try:
            if stream.peek() == "[":
                yield from _read_array(stream)
                return
            start, whole = stream.line, stream.value()
            if stream.peek():
                yield 1, whole
                while stream.peek():
                    yield stream.line, stream.value()
                return
            if not isinstance(whole, dict) or parser.knows(whole):
                yield 1, whole
                return
            stream.line = start
            container = _find_container(whole, parser)
        except TooLongError:  # for one row: it holds rows
            container = UNKNOWN
        except RowError as error:
            yield stream.line, error
            return
    yield from _read_container(path, container, parser)


def _read_array(stream: JsonStream) -> Iterator[NumberedRow]:
    try:
        stream.take("[")
        for value in stream.elements():
            yield stream.line, value
        if stream.peek():
            raise RowError("something follows the end of the list")
    except RowError as error:
        yield stream.line, error


def _find_container(whole: dict[str, Any], parser: RowParser) -> str | None:
    """The key of the list of rows in an object, None if its values are the rows. Raises `RowError`."""
    lists = [
        key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict | list)
    ]
    if not lists or not parser.knows(whole[lists[0]][0]):
        if whole and all(isinstance(value, dict | list) for value in whole.values()):
            return None
        if not lists:
            parser.parse(whole)  # says what its keys are
            raise RowError("holds no rows")
    if len(lists) > 1:
        raise RowError(f"holds several lists: {', '.join(map(repr, lists[:8]))}; write each into a file of its own")
    return lists[0]


def _read_container(path: Path, container: str | None, parser: RowParser) -> Iterator[NumberedRow]:
    """The rows in the list under the key `container` of an object, or its values (None)."""
    with open_unpacked(path) as file:
        stream = JsonStream(file)
        try:
            stream.take("{")
            for key in stream.entries():
                kind = stream.peek()
                if kind == "[" and container == UNKNOWN:
                    stream.take("[")
                    elements = stream.elements()
                    first = next(elements, None)
                    if parser.knows(first):
                        container = key
                        yield stream.line, first
                        yield from ((stream.line, value) for value in elements)
                    else:
                        yield stream.line, [first, *elements]
                elif kind == "[" and container == key:
                    stream.take("[")
                    yield from ((stream.line, value) for value in stream.elements())
                elif kind and kind in "[{" and container in (None, UNKNOWN):
                    yield stream.line, stream.value()
                else:
                    stream.value()
                    parser.skip(key)
        except RowError as error:
            yield stream.line, error
