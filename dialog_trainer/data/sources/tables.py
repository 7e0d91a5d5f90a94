"""Reads tables: CSV with a header, and parquet. A row is an object of its cells; an empty cell is null."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dialog_trainer.data.sources.reading import MAX_LINE_BYTES, decode_line, read_lines
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.data.sources.unpacking import open_unpacked
from dialog_trainer.errors import DataError

DELIMITERS = ",;\t|"
_NAMED_DELIMITERS = [f"sep={delimiter}" for delimiter in DELIMITERS]
# Rows of parquet read at a time: a small file may repeat a text of megabytes in each row.
PARQUET_ROWS = 64
# Bounds on what the columns of a file unpack to, and on the text of its structure.
MAX_PARQUET_RATIO = 1_000
MIN_PARQUET_BYTES = 2**26
MAX_STRUCTURE_BYTES = 2**26
# A parquet file that is compressed as a whole is unpacked into memory.
MAX_PARQUET_IN_MEMORY = 2**28


def read_csv(path: Path, delimiter: str | None) -> Iterator[tuple[int, object]]:
    """Line and row of each record. `delimiter` None: what an Excel file names in its first line (`sep=;`), else comma,
    semicolon, tab or bar, whatever the header has most of."""
    with open_unpacked(path) as file:
        yield from _read_records(_Lines(file), path, delimiter)


def _read_records(lines: _Lines, path: Path, delimiter: str | None) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        header_line = next(lines, "")
        if header_line.rstrip("\r\n") in _NAMED_DELIMITERS:
            delimiter, header_line = header_line[4], next(lines, "")
    except RowError as error:
        yield lines.number, error
        return
    delimiter = delimiter or max(DELIMITERS, key=header_line.count)
    lines.put_back(header_line)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            is_old = "new-line character" in str(error)
            reason = "lines end with carriage returns alone; write line feeds: tr '\\r' '\\n' < it > new_file.csv"
            yield lines.number, RowError(f"not CSV: {reason if is_old else error}")
            continue
        except RowError as error:  # where the next row starts is not known
            yield lines.number, error
            return
        lines.size = 0
        if header is None:
            header = _check_header([cell.strip() or f"column {n}" for n, cell in enumerate(cells, start=1)], path)
        elif len(cells) == len(header):
            if any(cells):
                yield lines.number, {key: cell or None for key, cell in zip(header, cells, strict=True)}
        elif cells:
            yield (
                lines.number,
                RowError(
                    f"has {len(cells)} cells, and the header, its first line, {len(header)}; put a text that holds {delimiter!r}, quotes or a "
                    "line end in double quotes"
                ),
            )


class _Lines:
    """The lines of a file as texts; raises `RowError` where one record takes too many of them."""

    def __init__(self, file: IO[bytes]):
        self._lines = read_lines(file)
        self._first: str | None = None
        self.number = 0  # of the last line
        self.size = 0  # since the last record

    def put_back(self, line: str) -> None:
        self._first = line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._first:
            line, self._first = self._first, None
            return line
        self.number, raw = next(self._lines)
        self.size += len(raw)
        if self.size > MAX_LINE_BYTES:
            raise RowError(f"a record is longer than {MAX_LINE_BYTES / 2**20:g} MiB: is a quote not closed?")
        return decode_line(raw, self.number)


def _check_header(header: list[str], path: Path) -> list[str]:
    twice = sorted({key for key in header if header.count(key) > 1})
    if twice:
        raise DataError(f"{path}: the header has {twice[0]!r} twice; rename one column")
    return header


def read_parquet(path: Path) -> Iterator[tuple[int, object]]:
    """Number and row of each row. Columns of binary values (images, sound) are not read."""
    import pyarrow as pa

    with open_unpacked(path) as file:
        try:
            yield from enumerate(_read_parquet_rows(_seekable(file, path), path), start=1)
        except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
            reason = str(error).split("\n")[0]
            raise DataError(f"{path} cannot be read as parquet ({reason}): it is damaged; write it again") from None


def _read_parquet_rows(file: IO[bytes], path: Path) -> Iterator[object]:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(
        file,
        thrift_string_size_limit=MAX_STRUCTURE_BYTES,
        thrift_container_size_limit=1_000_000,
        pre_buffer=False,
    )
    _check_parquet(table, file.seek(0, io.SEEK_END), path)
    names = [field.name for field in table.schema_arrow if not _is_binary(field.type)]
    for batch in table.iter_batches(PARQUET_ROWS, columns=names, use_threads=False):
        yield from batch.to_pylist()


def _seekable(file: IO[bytes], path: Path) -> IO[bytes]:
    if file.seekable():
        return file
    content = file.read(MAX_PARQUET_IN_MEMORY + 1)
    if len(content) > MAX_PARQUET_IN_MEMORY:
        raise DataError(
            f"{path} unpacks to more than {MAX_PARQUET_IN_MEMORY // 2**20} MiB of parquet: unpack it yourself"
        )
    return io.BytesIO(content)


def _is_binary(type_: Any) -> bool:
    import pyarrow as pa

    while pa.types.is_list(type_) or pa.types.is_large_list(type_):
        type_ = type_.value_type
    if pa.types.is_struct(type_):
        return any(_is_binary(field.type) for field in type_)
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _check_parquet(table: Any, packed_bytes: int, path: Path) -> None:
    """Raises `DataError` if the groups of rows claim to unpack to far more than the file's size.

    What a column says of itself is not asked: pyarrow ends the process where that is damaged.
    """
    metadata = table.metadata
    claimed = sum(max(0, metadata.row_group(index).total_byte_size) for index in range(metadata.num_row_groups))
    if claimed > max(MAX_PARQUET_RATIO * packed_bytes, MIN_PARQUET_BYTES):
        raise DataError(
            f"{path} unpacks to more than {MAX_PARQUET_RATIO} times its size; write it again if you trust it"
        )
