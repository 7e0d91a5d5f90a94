"""The source `data=dailydialog`: official text files, JSONL, the original program's pickles, or the hub."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from dialog_trainer.data.sources.jsonl import read_jsonl
from dialog_trainer.data.sources.pickles import read_pickle
from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.data.sources.reading import decode_line, digest_of_data_file, open_data_file, read_lines
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.data.sources.row_format import alternate_roles, parse_row
from dialog_trainer.errors import DataError
from dialog_trainer.files import sha256_of_texts

# The official zip of the training split has 2 MB, and 6 MB of text.
MAX_ZIP_BYTES = 16 * 2**20
MAX_ZIP_RATIO = 20
MIN_UNZIPPED_BYTES = 16 * 2**20


class DailyDialog:
    """DailyDialog (Li et al. 2017, arXiv 1710.03957).

    Args:
        path: a folder with `<split>.jsonl`, the official text files (`dialogues_<split>.txt`, `<split>.zip`)
            or the original program's pickles (`dailydialog.train`, `.val`, `.test`); None: the hub.
        hub_id: a parquet data set on the hub, or a folder of parquet files.
        hub_revision: its branch, tag or commit; None: the default branch.
        hub_column: its column that holds the list of turns.
    """

    def __init__(self, path: str | None, hub_id: str, hub_revision: str | None, hub_column: str):
        self.path = Path(path) if path else None
        self.hub_id, self.hub_revision, self.hub_column = hub_id, hub_revision, hub_column

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        if self.path is None:
            yield from _read_hub(self.hub_id, self.hub_revision, self.hub_column, split)
        else:
            file = find_dailydialog_file(self.path, split)
            yield from READERS.get(file.suffix, read_pickle)(file)

    def digest(self, split: str) -> str:
        if self.path is None:
            files = sorted(Path(self.hub_id).rglob("*.parquet")) if Path(self.hub_id).is_dir() else []
            digests = [digest_of_data_file(file) for file in files]
            return sha256_of_texts("hub", self.hub_id, str(self.hub_revision), self.hub_column, split, *digests)
        return digest_of_data_file(find_dailydialog_file(self.path, split))

    def describe(self, split: str) -> str:
        if self.path is None:
            return f"{self.hub_id} ({self.hub_revision}), split {split}"
        return str(find_dailydialog_file(self.path, split))


def find_dailydialog_file(folder: Path, split: str) -> Path:
    """The file of a split in a folder of any of the three kinds. Raises `DataError` that lists the possible names."""
    short = {"validation": "val"}.get(split, split)
    names = (
        f"{split}.jsonl",
        f"dialogues_{split}.txt",
        f"{split}/dialogues_{split}.txt",
        f"{split}.zip",
        f"dailydialog.{short}",
    )
    for name in names:
        if os.path.lexists(folder / name):
            return folder / name
    if folder.is_dir() and not os.access(folder, os.X_OK):
        raise DataError(f"{folder} cannot be read (permission denied); pass another data.path")
    raise DataError(f"{folder} has no {split} split: none of {', '.join(names)} exists; pass another data.path")


def _read_official_text(path: Path) -> Iterator[RawDialogue]:
    """The official distribution: one dialogue per line, `__eou__` ends a turn; plain or in a zip."""
    with open_data_file(path) as file:
        lines = read_lines(file) if path.suffix != ".zip" else _read_zipped_lines(path, file)
        for number, raw in lines:
            try:
                line = decode_line(raw, number).strip()
                # Nothing follows the last `__eou__`: without `removesuffix` an empty turn would.
                turns = alternate_roles(line.removesuffix("__eou__").split("__eou__")) if line else []
            except RowError as error:
                raise DataError(f"{path}:{number}: {error}; or download it again") from None
            if turns:
                yield str(number), turns


def _read_zipped_lines(path: Path, file: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """The lines of the one text in an official zip."""
    member = f"{path.stem}/dialogues_{path.stem}.txt"
    size = os.fstat(file.fileno()).st_size
    try:
        if size > MAX_ZIP_BYTES:
            raise ValueError(f"it is larger than {MAX_ZIP_BYTES // 2**20} MiB")
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(member)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others cannot be read in parts
                raise ValueError("it is not compressed by deflate")
            if info.file_size > max(MAX_ZIP_RATIO * size, MIN_UNZIPPED_BYTES):  # no more than that is read
                raise ValueError(f"the text, of {info.file_size:,} bytes, is too large for a zip of {size:,}")
            with archive.open(info) as content:
                yield from read_lines(content)
    except Exception as error:  # a damaged zip raises errors of many classes
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} does not hold {member}: {reason}; download it again") from None


READERS = {".jsonl": read_jsonl, ".txt": _read_official_text, ".zip": _read_official_text}


def _read_hub(hub_id: str, revision: str | None, column: str, split: str) -> Iterator[RawDialogue]:
    import datasets

    try:
        dataset = datasets.load_dataset(hub_id, revision=revision, split=split)
    except Exception as error:  # the hub's client raises many classes; all mean that the data are not available
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"{hub_id} could not be loaded from the hub ({type(error).__name__}: {reason}). "
            "Pass data.path=<folder with train.jsonl or the official files>, another data.hub_id, "
            "or use data=chitchat, which needs no hub"
        ) from None
    if column not in dataset.column_names:
        raise DataError(
            f"{hub_id} has no column {column!r}: pass data.hub_column, one of {', '.join(dataset.column_names)}"
        )
    for index, row in enumerate(dataset.select_columns([column])):
        try:
            yield str(index), parse_row({"turns": row[column]})
        except RowError as error:
            raise DataError(f"{hub_id}, split {split}, row {index} of {column!r}: {error} (data.hub_column)") from None
