"""The source `data=jsonl`: a JSON object per line; `row_format.py` has the forms of an object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.sources.parsing import Row, parse_rows
from dialog_trainer.data.sources.protocol import RawDialogue, hash_fraction
from dialog_trainer.data.sources.reading import decode_line, digest_of_data_file, open_data_file, read_lines
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.data.sources.row_format import RowParser
from dialog_trainer.errors import DataError
from dialog_trainer.files import sha256_of_texts


class Jsonl:
    """Your own data: a JSON object with `turns`, `messages` or `conversations` per line.

    Without a validation file, the fraction `validation_share` of the training dialogues is held out, chosen by a hash
    of their text: copies of a dialogue are on the same side, in whatever order.
    """

    def __init__(
        self,
        train_data_path: str,
        validation_data_path: str | None,
        test_data_path: str | None,
        validation_share: float,
    ):
        paths = {"train": train_data_path, "validation": validation_data_path, "test": test_data_path}
        self.paths = {split: Path(path) for split, path in paths.items() if path}
        self.validation_share = validation_share

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        if split == "test" or "validation" in self.paths:
            yield from read_jsonl(self._path(split))
            return
        is_empty = True
        for identifier, turns in read_jsonl(self._path("train")):
            held_out = hash_fraction(*(turn.text for turn in turns)) < self.validation_share
            if held_out == (split == "validation"):
                is_empty = False
                yield identifier, turns
        if is_empty:
            raise DataError(
                f"{self.describe(split)}, has no dialogue: pass data.validation_data_path=<file.jsonl>, "
                "or another data.validation_share"
            )

    def digest(self, split: str) -> str:
        if split == "test" or "validation" in self.paths:
            return digest_of_data_file(self._path(split))
        return sha256_of_texts(digest_of_data_file(self._path("train")), split, str(self.validation_share))

    def describe(self, split: str) -> str:
        if split == "test" or "validation" in self.paths:
            return str(self._path(split))
        if split == "validation":
            return f"{self.validation_share:g} of {self._path('train')}, held out by a hash of the dialogue"
        return f"{self._path('train')} without the {self.validation_share:g} that is held out"

    def _path(self, split: str) -> Path:
        if split not in self.paths:
            raise DataError(f"there is no {split} data: pass data.{split}_data_path=<file.jsonl>")
        return self.paths[split]


def read_jsonl(path: Path) -> Iterator[RawDialogue]:
    """The dialogues of a JSONL file; the id is the line number. Raises one `DataError` with all lines that are not dialogues."""
    yield from parse_rows(_read_rows(path), RowParser())


def _read_rows(path: Path) -> Iterator[Row]:
    rows = 0
    with open_data_file(path) as file:
        for number, raw in read_lines(file):
            value: object
            try:
                line = decode_line(raw, number)
                if not line.strip():
                    continue
                rows += 1
                value = json.loads(line)
            except RecursionError:
                value = RowError("nested too deeply")
            except json.JSONDecodeError as error:
                value = RowError(f"not JSON: {error.msg} at column {error.colno}")
            except ValueError as error:  # RowError, and a number of too many digits
                value = RowError(str(error))
            yield str(number), f"{path}:{number}", value
    if not rows:
        raise DataError(f'{path} is empty: expected a JSON object per line, e.g. {{"turns": ["Hi .", "Hello !"]}}')
