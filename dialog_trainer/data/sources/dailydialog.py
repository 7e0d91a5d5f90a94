"""The source `data=dailydialog`: official text files, JSONL, the original program's pickles, or the hub."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from dialog_trainer.data.sources.hub import Hub
from dialog_trainer.data.sources.json_rows import read_json_lines
from dialog_trainer.data.sources.parsing import parse_rows
from dialog_trainer.data.sources.pickles import read_pickle
from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.data.sources.reading import decode_line, digest_of_data_file, open_data_file, read_lines
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.data.sources.row_format import RowParser, alternate_roles
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
        self._hub_column = hub_column
        self._hub = Hub(hub_id, None, hub_revision, None, {"turns": hub_column})
        self._hub.remedy = "use data=chitchat, or data.path=<folder with train.jsonl or the official files>"
        self.parser = RowParser()

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        self.parser = RowParser()
        if self.path is None:
            try:
                yield from self._hub.dialogues(split)
            except DataError as error:
                text = str(error).replace("data.columns.turns", "data.hub_column")
                raise DataError(f"{text} (data.hub_id, data.hub_revision, data.hub_column)") from None
        else:
            file = find_dailydialog_file(self.path, split)
            read = READERS.get(file.suffix)
            yield from read(file, self.parser) if read else read_pickle(file)

    def digest(self, split: str) -> str:
        if self.path is None:  # as runs from before data=hub have it
            hub, column = self._hub, self._hub_column
            files = sorted(Path(hub.id).rglob("*.parquet")) if Path(hub.id).is_dir() else []
            return sha256_of_texts("hub", hub.id, str(hub.revision), column, split, *map(digest_of_data_file, files))
        return digest_of_data_file(find_dailydialog_file(self.path, split))

    def describe(self, split: str) -> str:
        if self.path is None:
            return self._hub.describe(split)
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


def _read_official_text(path: Path, parser: RowParser) -> Iterator[RawDialogue]:
    """The official distribution: one dialogue per line, `__eou__` ends a turn; plain or in a zip.

    Other sets of this form have columns of labels after the last `__eou__`, with tabs before them.
    """
    with open_data_file(path) as file:
        lines = read_lines(file) if path.suffix != ".zip" else _read_zipped_lines(path, file)
        for number, raw in lines:
            try:
                line = decode_line(raw, number).strip()
                texts, end, rest = line.rpartition("__eou__")
                if end and (not rest or rest.lstrip(" ").startswith("\t")):
                    line = texts
                    if rest:
                        parser.skip("columns after the last __eou__")
                turns = alternate_roles(line.split("__eou__")) if line else []
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


def _read_jsonl(path: Path, parser: RowParser) -> Iterator[RawDialogue]:
    rows = ((str(number), f"{path}:{number}", value) for number, value in read_json_lines(path))
    return parse_rows(rows, parser)


READERS = {".jsonl": _read_jsonl, ".txt": _read_official_text, ".zip": _read_official_text}
