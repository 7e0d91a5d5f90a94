"""Where dialogues come from. A source gives the raw turns of a split and a digest of what it would give.

`DailyDialog`, `Jsonl` and `ChitChat` share one contract:

- `dialogues(split)` yields `(id, turns)`, in a fixed order, a row at a time; raises `DataError`.
- `digest(split)` changes when what `dialogues(split)` yields changes.
- `describe(split)` names the place for people.

`split` is `train`, `validation` or `test`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.sources.protocol import RawDialogue, hash_fraction
from dialog_trainer.data.sources.row_format import RowError, parse_row
from dialog_trainer.errors import DataError
from dialog_trainer.files import sha256_of_file, sha256_of_texts

MAX_LINE_BYTES = 64 * 2**20
MAX_FAULTS = 10


class Jsonl:
    """Own data: a JSON object a line, `{"turns"}`, `{"messages"}` or `{"conversations"}`.

    Without a validation file, the share `validation_share` of the training dialogues, chosen by a hash of their
    text, is held out.
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
        found = False
        for identifier, turns in read_jsonl(self._path("train")):
            held_out = hash_fraction(*(turn.text for turn in turns)) < self.validation_share
            if held_out == (split == "validation"):
                found = True
                yield identifier, turns
        if not found:
            raise DataError(
                f"{self.describe(split)}, holds no dialogue: pass data.validation_data_path=<file.jsonl>, "
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
            return f"a share of {self.validation_share:g} of {self._path('train')}, held out by a hash of the dialogue"
        return f"{self._path('train')} without the share of {self.validation_share:g} that is held out"

    def _path(self, split: str) -> Path:
        if split not in self.paths:
            raise DataError(f"there is no {split} data: pass data.{split}_data_path=<file.jsonl>")
        return self.paths[split]


def read_jsonl(path: Path) -> Iterator[RawDialogue]:
    """Rows of a JSONL file; the id is the line number. Faulty lines are gathered and raised together."""
    faults: list[str] = []
    rows = 0
    for number, line in _read_lines(path, faults):
        if not line.strip():
            continue
        rows += 1
        try:
            yield str(number), parse_row(json.loads(line))
        except RecursionError:
            faults.append(f"{path}:{number}: nested too deeply")
        except json.JSONDecodeError as error:
            faults.append(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}")
        except (RowError, ValueError) as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        raise DataError("\n".join(["these lines are not dialogues; mend or remove them:", *faults]))
    if not rows:
        raise DataError(f'{path} is empty: expected a JSON object a line, e.g. {{"turns": ["Hi .", "Hello !"]}}')


def _read_lines(path: Path, faults: list[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines, decoded one by one, until `faults`, to which the caller adds its own, are too many.

    Only `\\n` ends a line: U+2028 and its kin may stand in a text.
    """
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            if len(faults) >= MAX_FAULTS:
                faults.append("(the rest of the file was not read)")
                return
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                faults.append(f"{path}:{number}: longer than {MAX_LINE_BYTES // 2**20} MiB; a line holds one dialogue")
                return
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                faults.append(
                    f"{path}:{number}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8; "
                    "save the file as UTF-8"
                )
