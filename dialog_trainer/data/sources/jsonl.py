"""The source `data=jsonl`: a JSON object per line; `row_format.py` has the forms of an object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.sources.protocol import RawDialogue, hash_fraction
from dialog_trainer.data.sources.row_format import RowError, parse_row
from dialog_trainer.errors import DataError
from dialog_trainer.files import sha256_of_file, sha256_of_texts

MAX_LINE_BYTES = 64 * 2**20
MAX_ERRORS = 10


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
            return sha256_of_file(self._path(split))
        return sha256_of_texts(sha256_of_file(self._path("train")), split, str(self.validation_share))

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
    """The dialogues of a JSONL file; the id is the line number.

    Raises one `DataError` with all lines that are not dialogues, the first `MAX_ERRORS` of them if there are more.
    """
    errors: list[str] = []
    rows = 0
    for number, line in _read_lines(path, errors):
        if not line.strip():
            continue
        rows += 1
        try:
            yield str(number), parse_row(json.loads(line))
        except RecursionError:
            errors.append(f"{path}:{number}: nested too deeply")
        except json.JSONDecodeError as error:
            errors.append(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}")
        except (RowError, ValueError) as error:
            errors.append(f"{path}:{number}: {error}")
    if errors:
        raise DataError("\n".join(["these lines are not dialogues; fix or remove them:", *errors]))
    if not rows:
        raise DataError(f'{path} is empty: expected a JSON object per line, e.g. {{"turns": ["Hi .", "Hello !"]}}')


def _read_lines(path: Path, errors: list[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines, decoded one by one, until there are `MAX_ERRORS` errors; the caller adds its own to the list.

    Only `\\n` ends a line: a text may hold U+2028 and other line separators.
    """
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            if len(errors) >= MAX_ERRORS:
                errors.append("(the rest of the file was not read)")
                return
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                errors.append(f"{path}:{number}: longer than {MAX_LINE_BYTES // 2**20} MiB; a line holds one dialogue")
                return
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                errors.append(
                    f"{path}:{number}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8; "
                    "save the file as UTF-8"
                )
