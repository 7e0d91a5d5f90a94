"""Reads the original program's pickles, a list of tuples of strings, by a reader that knows no others.

Nothing of a pickle is run or imported: the few operations that lists, tuples, strings and numbers need are done here, with
bounds on their number, on the size of the file, and on the text that shared objects repeat.
"""

from __future__ import annotations

import os
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.data.sources.reading import open_data_file
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.data.sources.row_format import parse_row
from dialog_trainer.errors import DataError

# About ten times those of DailyDialog, whose training split has 6.5 MB and 0.2 million operations.
MAX_BYTES = 64 * 2**20
MAX_OPERATIONS = 2_000_000
# The characters of all dialogues, and 24 more for each turn, may be 1 Mi and so many for each byte of the file.
MAX_CHARACTERS_PER_BYTE = 8

_VALUES = {
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "INT", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLE_LENGTHS = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(path: Path) -> Iterator[RawDialogue]:
    """The dialogues of a pickle; the id is the index. Raises `DataError`."""
    with open_data_file(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES // 2**20} MiB; convert it to JSONL")
        content = file.read()
    try:
        rows = _load(content)
    except Exception as error:  # bytes that are not a pickle raise errors of many classes
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} is refused: {reason}; only plain lists, tuples and strings are loaded") from None
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}; expected a list of tuples of strings")
    room = 2**20 + MAX_CHARACTERS_PER_BYTE * len(content)
    for index, row in enumerate(rows):
        try:
            turns = parse_row({"turns": list(row) if isinstance(row, tuple) else row})
        except RowError as error:
            raise DataError(f"{path}: dialogue {index}: {error}") from None
        room -= sum(24 + len(turn.text) for turn in turns)
        if room < 0:
            raise DataError(
                f"{path}: dialogue {index}: the texts so far are more than {MAX_CHARACTERS_PER_BYTE} times as long as the "
                "file, which repeats the same few objects; convert it to JSONL"
            )
        yield str(index), turns


def _load(content: bytes) -> object:
    """The object of a pickle of lists, tuples, strings and numbers. Raises an error of any class for another."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[object, Any] = {}

    def pop_from(start: int) -> list[Any]:
        items = stack[start:]
        del stack[start:]
        return items

    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if count >= MAX_OPERATIONS:
            raise ValueError(f"it has more than {MAX_OPERATIONS:,} operations")
        match operation.name:
            case "PROTO" | "FRAME":
                continue
            case "STOP":
                return stack[-1]
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _TUPLE_LENGTHS:
                stack.append(tuple(pop_from(len(stack) - _TUPLE_LENGTHS[name])))
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_from(marks.pop())))
            case "LIST":
                stack.append(pop_from(marks.pop()))
            case "APPEND":
                stack[-2].append(stack.pop())
            case "APPENDS":
                items = pop_from(marks.pop())
                stack[-1].extend(items)
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case name:
                raise ValueError(f"it wants {name}")
    raise ValueError("it has no end")
