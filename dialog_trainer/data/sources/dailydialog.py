"""The source `data=dailydialog`: official text files, JSONL, the original program's pickles, or the hub."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.sources.jsonl import read_jsonl
from dialog_trainer.data.sources.pickles import read_pickle
from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.data.sources.row_format import RowError, alternate_roles, parse_row
from dialog_trainer.errors import DataError
from dialog_trainer.files import sha256_of_file, sha256_of_texts


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
            digests = [sha256_of_file(file) for file in files]
            return sha256_of_texts("hub", self.hub_id, str(self.hub_revision), self.hub_column, split, *digests)
        return sha256_of_file(find_dailydialog_file(self.path, split))

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
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has no {split} split: none of {', '.join(names)} exists; pass another data.path")


def _read_official_text(path: Path) -> Iterator[RawDialogue]:
    """The official distribution: one dialogue per line, `__eou__` ends a turn; plain or in a zip."""
    if path.suffix == ".zip":
        member = f"{path.stem}/dialogues_{path.stem}.txt"
        try:
            with zipfile.ZipFile(path) as archive:
                content = archive.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:  # damaged, or encrypted
            raise DataError(f"{path} does not hold {member}: {error}; download it again") from None
    else:
        content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8; download it again") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            # Nothing follows the last `__eou__`: without `removesuffix` an empty turn would.
            yield str(number), alternate_roles(line.strip().removesuffix("__eou__").split("__eou__"))


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
