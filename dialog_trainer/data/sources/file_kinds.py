"""The kind of a file of rows by its content: JSON lines, JSON, CSV, TSV or parquet; any other kind is named."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from dialog_trainer.data.sources.unpacking import GZIP, ZSTANDARD
from dialog_trainer.errors import DataError

HEAD_BYTES = 2**16
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".zst", ".zstd")

_UNPACK = "unpack it and pass the file or folder that comes out"
_SAVE = "save it as JSON lines, CSV or parquet"
_UTF16 = "is text in UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {typed} > {new}"
# Beginning of the content, and what a message says about such a file.
_OTHER_KINDS = (
    (b"PK\x03\x04", f"is a zip archive (or an .xlsx or .docx document): {_UNPACK}, or save the document as CSV"),
    (b"\xd0\xcf\x11\xe0", "is an old office document (.xls, .doc): save it as CSV"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7z archive: {_UNPACK}"), (b"Rar!", f"is a rar archive: {_UNPACK}"),
    (b"BZh", "is compressed by bzip2: unpack it (bunzip2), or compress it by gzip"),
    (b"\xfd7zXZ\x00", "is compressed by xz: unpack it (unxz), or compress it by gzip"),
    (GZIP, "is compressed twice: unpack it"), (ZSTANDARD, "is compressed twice: unpack it"),
    (b"SQLite format 3\x00", f"is an SQLite database: {_SAVE}, with one row for each dialogue"),
    (b"ARROW1", "is an Arrow file: save it as parquet (datasets: Dataset.to_parquet)"),
    (b"\xff\xff\xff\xff", "is an Arrow stream: save it as parquet (datasets: Dataset.to_parquet)"),
    (b"\x89HDF", f"is an HDF5 file: {_SAVE}"), (b"\x93NUMPY", f"is a NumPy array: {_SAVE}"),
    (b"GGUF", "is the weights of a model (GGUF), not dialogues"),
    (b"%PDF", "is a PDF document, not dialogues"), (b"Obj\x01", f"is an Avro file: {_SAVE}"), (b"ORC", f"is an ORC file: {_SAVE}"),
    (b"\xff\xfe\x00\x00", "is text in UTF-32; convert it: iconv -f UTF-32 -t UTF-8 {typed} > {new}"),
    (b"\xff\xfe", _UTF16), (b"\xfe\xff", _UTF16),
    (b"version https://git-lfs", "is a pointer of Git LFS in place of the data: fetch them (git lfs pull)"),
)  # fmt: skip


def bare_suffix(name: str) -> str:
    """The suffix of a file's name without that of its compression, in small letters."""
    path = Path(name.lower())
    return path.with_suffix("").suffix if path.suffix in PACKED else path.suffix


def find_kind(path: Path, head: bytes) -> str:
    """`jsonl`, `json`, `csv`, `tsv` or `parquet`, from the first `HEAD_BYTES` of the content. Raises `DataError`."""
    if head.startswith(b"PAR1"):
        return "parquet"
    typed = {"typed": shlex.quote(str(path)), "new": shlex.quote(f"utf8_{path.name}")}
    for beginning, message in _OTHER_KINDS:
        if head.startswith(beginning):
            raise DataError(f"{path} {message.format(**typed)}")
    if head[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive: {_UNPACK}")
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise DataError(f"{path} is a pickle, which may hold code: {_SAVE}")
    if b"\x00" in head:
        is_wide = max(head[0::2].count(0), head[1::2].count(0)) > len(head) / 6
        raise DataError(f"{path} {_UTF16.format(**typed) if is_wide else f'is not a text: {_SAVE}'}")
    text = head.decode("utf-8-sig", errors="replace")
    start, suffix = text.lstrip(), bare_suffix(path.name)
    if not start:
        raise DataError(f'{path} is empty: expected a JSON object per line, e.g. {{"turns": ["Hi .", "Hello !"]}}')
    if start[0] in "{[":
        return _find_kind_of_json(start, suffix, len(head) >= HEAD_BYTES)
    if suffix in (".csv", ".tsv"):
        return suffix[1:]
    if start[0] == "<":
        raise DataError(
            f"{path} is HTML or XML, perhaps an error page in place of the data: download it again, or {_SAVE}"
        )
    if "__eou__" in text:
        raise DataError(
            f"{path} is in DailyDialog's text form: pass data=dailydialog data.path=<folder of {path.name}>"
        )
    raise DataError(
        f"{path} is neither JSON, CSV nor parquet; it begins with {start[:40]!r}: save it as JSON lines, a dialogue a "
        'line, as {"turns": ["Hi .", "Hello !"]}, or as CSV or parquet'
    )


def _find_kind_of_json(text: str, suffix: str, is_cut: bool) -> str:
    first, newline, rest = text.partition("\n")
    lines = "jsonl" if suffix != ".json" else "json"
    if not newline and is_cut:
        return "json" if first[0] == "[" else lines
    try:
        value = json.loads(first)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a comma after the object, or lines that end with a carriage return alone
            return "jsonl" if first[error.pos :].lstrip().startswith(",") else "json"
        is_incomplete = error.pos >= len(first.rstrip()) or error.msg.startswith("Unterminated")
        return "json" if is_incomplete else "jsonl"
    except (ValueError, RecursionError):
        return lines
    is_dialogue = isinstance(value, list) and all(isinstance(item, str) for item in value) and value
    return "jsonl" if rest.strip() or is_dialogue else "json"
