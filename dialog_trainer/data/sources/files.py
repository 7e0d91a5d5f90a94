"""The source `data=files`: files of your own as they are; `row_format.py` has the forms of a row."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dialog_trainer.data.sources.file_kinds import HEAD_BYTES, find_kind
from dialog_trainer.data.sources.json_rows import NumberedRow, read_json, read_json_lines
from dialog_trainer.data.sources.parsing import Row, hold_out, parse_rows
from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.data.sources.reading import digest_of_data_file
from dialog_trainer.data.sources.row_format import RowParser
from dialog_trainer.data.sources.splits import find_files
from dialog_trainer.data.sources.tables import read_csv, read_parquet
from dialog_trainer.data.sources.unpacking import open_unpacked
from dialog_trainer.errors import DataError, EmptySplitError
from dialog_trainer.files import sha256_of_texts

# Files without a split that are named.
MAX_SHOWN = 5


class Files:
    """Your own data: JSON lines, JSON, CSV, TSV or parquet, also compressed by gzip or zstandard.

    A path is a file, a folder or a pattern. In a folder, the names of files and folders say the split.
    Without validation data, the fraction `validation_share` of the training dialogues is held out, chosen by a hash of
    their text: copies of a dialogue are on the same side, in whatever order.

    Args:
        columns, roles: see `RowParser`.
        shared: whether these two are for other sources too, so that rows here need not have what they name.
    """

    def __init__(
        self,
        train_data_path: str | None,
        validation_data_path: str | None,
        test_data_path: str | None,
        validation_share: float,
        columns: Mapping[str, str | None] | None = None,
        roles: Mapping[str, Any] | None = None,
        shared: bool = False,
    ):
        self.paths = {"train": train_data_path, "validation": validation_data_path, "test": test_data_path}
        self.validation_share = validation_share
        self._mappings, self._shared = (dict(columns or {}), dict(roles or {})), shared
        self.parser = RowParser()
        # Looked for once: the digest, the rows and the message are of the same files.
        self._find = lru_cache(find_files)

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        self.parser = RowParser(*self._mappings)
        if not self._holds_out(split):
            yield from parse_rows(self._read_rows(split), self.parser, self._shared)
            return
        is_empty = True
        for dialogue in hold_out(self._read_rows("train"), self.parser, self.validation_share, split, self._shared):
            is_empty = False
            yield dialogue
        if is_empty:
            raise EmptySplitError(
                f"{self.describe(split)}, has no dialogue: pass data.validation_data_path=<file>, "
                "or another data.validation_share"
            )

    def digest(self, split: str) -> str:
        _, files = self._locate(split)
        digests = [digest_of_data_file(file) for file in files]
        if len(files) > 1:
            digests = [sha256_of_texts(*(file.name for file in files), *digests)]
        mapped = [json.dumps(mapping, sort_keys=True) for mapping in self._mappings if mapping]
        held_out = [split, str(self.validation_share)] if self._holds_out(split) else []
        return sha256_of_texts(*digests, *mapped, *held_out) if mapped or held_out else digests[0]

    def describe(self, split: str) -> str:
        place, files = self._locate(split)
        left_out = self._find(place).get(None, files)
        place = str(files[0]) if len(files) == 1 else f"{place} ({len(files):,} files)"
        if left_out is not files:
            names = ", ".join(file.name for file in left_out[:MAX_SHOWN]) + (
                " ..." if len(left_out) > MAX_SHOWN else ""
            )
            place += f" (without {names}: of no split by their names)"
        if not self._holds_out(split):
            return place
        if split == "validation":
            return f"{self.validation_share:g} of {place}, held out by a hash of the dialogue"
        return f"{place} without the {self.validation_share:g} that is held out"

    def _holds_out(self, split: str) -> bool:
        """Whether a part of the training data is held out for validation."""
        return split != "test" and self.paths["validation"] is None and "validation" not in self._splits_of_training()

    def _splits_of_training(self) -> dict[str | None, list[Path]]:
        """The files at the place of the training data by split, where their names tell several splits apart."""
        found = {} if self.paths["train"] is None else self._find(self.paths["train"])
        return found if len(found) > 1 else {}

    def _locate(self, split: str) -> tuple[str, list[Path]]:
        """The place of a split and its files; of one that is held out, those of the training data."""
        place = self.paths[split]
        if place is None and split in self._splits_of_training():
            place = self.paths["train"]
        elif place is None and self._holds_out(split):
            place, split = self.paths["train"], "train"
        if place is None:
            raise EmptySplitError(f"there is no {split} data: pass data.{split}_data_path=<file, folder or pattern>")
        by_split = self._find(place)
        files = next(iter(by_split.values())) if len(by_split) == 1 else by_split.get(split, [])
        if not files:
            raise EmptySplitError(
                f"{place} has files of other splits, but none of {split}: pass data.{split}_data_path=<its file>"
            )
        return place, files

    def _read_rows(self, split: str) -> Iterator[Row]:
        _, files = self._locate(split)
        root = Path(os.path.commonpath([file.parent for file in files]))
        for file in files:
            prefix = f"{file.relative_to(root).as_posix()}:" if len(files) > 1 else ""
            is_empty = True
            between = " row " if (rows := self._open(file))[0] == "parquet" else ":"
            for number, value in rows[1]:
                is_empty = False
                yield f"{prefix}{number}", f"{file}{between}{number}", value
            if is_empty:
                raise DataError(
                    f'{file} is empty: expected a JSON object per line, e.g. {{"turns": ["Hi .", "Hello !"]}}'
                )

    def _open(self, file: Path) -> tuple[str, Iterator[NumberedRow]]:
        """The kind of a file, and its rows."""
        with open_unpacked(file) as content:
            kind = find_kind(file, content.read(HEAD_BYTES))
        match kind:
            case "jsonl":
                return kind, read_json_lines(file)
            case "json":
                return kind, read_json(file, self.parser)
            case "parquet":
                return kind, read_parquet(file)
            case _:
                return kind, read_csv(file, "\t" if kind == "tsv" else None)
