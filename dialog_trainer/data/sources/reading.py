"""Opens files of dialogues: regular files alone, read line by line, each line bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.errors import DataError
from dialog_trainer.files import why_unreadable

# What JSON is read into takes up to 30 times as much memory as its line.
MAX_LINE_BYTES = 16 * 2**20


def open_data_file(path: Path) -> BufferedReader:
    """Opens a regular file; links to one are followed. Raises `DataError`."""
    problem = why_unreadable(path)
    if problem:
        raise DataError(f"{path} {problem}")
    with named_errors(path):
        return path.open("rb")


def digest_of_data_file(path: Path) -> str:
    """Hex sha256 of the bytes of a file. Raises `DataError`."""
    with open_data_file(path) as file, named_errors(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def named_errors(path: object) -> Iterator[None]:
    """Turns an error of the disk in its block into a `DataError` that names the file."""
    try:
        yield
    except OSError as error:  # a disk or a network that fails
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None


def read_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long the beginning, which `decode_line` refuses, and none after it.

    Only `\\n` ends a line: a text may hold U+2028 and other line separators.
    """
    number = 0
    with named_errors(file.name):
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            yield number, raw
            if len(raw) > MAX_LINE_BYTES:
                return


def decode_line(raw: bytes, number: int) -> str:
    """The text of a line of `read_lines`. Raises `RowError`."""
    if len(raw) > MAX_LINE_BYTES:
        raise RowError(
            f"longer than {MAX_LINE_BYTES / 2**20:g} MiB; a line holds one dialogue: divide it into shorter ones"
        )
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RowError(
            f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from None
