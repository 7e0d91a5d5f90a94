"""Opens a file of rows, unpacked where it is compressed by gzip or zstandard, with a bound on what it unpacks to."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dialog_trainer.data.sources.reading import named_errors, open_data_file
from dialog_trainer.errors import DataError

GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# Text is compressed to a tenth, rows that repeat themselves to a fiftieth.
MAX_RATIO = 200
MIN_UNPACKED_BYTES = 2**26


class _Unpacked(io.RawIOBase):
    """The content of a compressed file, up to a bound."""

    def __init__(self, name: str, stream: Any, size: int):
        self.name, self._stream = name, stream
        self._room = max(MAX_RATIO * size, MIN_UNPACKED_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import pyarrow as pa

        try:
            content = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise DataError(f"{self.name} cannot be unpacked ({error}): it is damaged or not complete") from None
        self._room -= len(content)
        if self._room < 0:
            raise DataError(
                f"{self.name} unpacks to more than {MAX_RATIO} times its size; unpack it yourself if you trust it"
            )
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def open_unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """The content of a regular file, unpacked where it is gzip or zstandard. Raises `DataError`."""
    with open_data_file(path) as file, named_errors(path):
        magic, size = file.peek(4)[:4], os.fstat(file.fileno()).st_size
        if magic.startswith(GZIP):
            yield io.BufferedReader(_Unpacked(str(path), gzip.GzipFile(fileobj=file), size))
        elif magic == ZSTANDARD:
            import pyarrow as pa

            stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
            yield io.BufferedReader(_Unpacked(str(path), stream, size))
        else:
            yield file
