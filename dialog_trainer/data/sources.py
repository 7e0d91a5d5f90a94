"""Where dialogues come from. A source gives the raw turns of a split and a digest of what it would give.

`DailyDialog`, `Jsonl` and `ChitChat` share one contract:

- `dialogues(split)` yields `(id, turns)`, in a fixed order, a row at a time; raises `DataError`.
- `digest(split)` changes when what `dialogues(split)` yields changes.
- `describe(split)` names the place for people.

`split` is `train`, `validation` or `test`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.pickles import pickle_rows
from dialog_trainer.data.rows import RowError, alternating, turns_of_row
from dialog_trainer.errors import DataError
from dialog_trainer.records import Role, Turn

SPLITS = ("train", "validation", "test")
MAX_LINE_BYTES = 64 * 2**20
MAX_FAULTS = 10

RawDialogue = tuple[str, list[Turn]]


class DailyDialog:
    """DailyDialog (Li et al. 2017, arXiv 1710.03957).

    Args:
        path: a folder with `<split>.jsonl`, the official text files (`dialogues_<split>.txt`, `<split>.zip`)
            or the original program's pickles (`dailydialog.train`, `.val`, `.test`); None: the hub.
        hub_id, hub_revision, hub_column: parquet data set on the hub (or a folder of parquet files) and the
            column that holds the list of turns.
    """

    def __init__(self, path: str | None, hub_id: str, hub_revision: str | None, hub_column: str):
        self.path = Path(path) if path else None
        self.hub_id, self.hub_revision, self.hub_column = hub_id, hub_revision, hub_column

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        if self.path is None:
            yield from _hub_rows(self.hub_id, self.hub_revision, self.hub_column, split)
        else:
            file = dailydialog_file(self.path, split)
            read = {".jsonl": _jsonl_rows, ".txt": _official_rows, ".zip": _official_rows}.get(file.suffix, pickle_rows)
            yield from read(file)

    def digest(self, split: str) -> str:
        if self.path is None:
            files = sorted(Path(self.hub_id).rglob("*.parquet")) if Path(self.hub_id).is_dir() else []
            content = [file_digest(file) for file in files]
            return _digest("hub", self.hub_id, str(self.hub_revision), self.hub_column, split, *content)
        return file_digest(dailydialog_file(self.path, split))

    def describe(self, split: str) -> str:
        if self.path is None:
            return f"{self.hub_id} ({self.hub_revision}), split {split}"
        return str(dailydialog_file(self.path, split))


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
            yield from _jsonl_rows(self._path(split))
            return
        found = False
        for identifier, turns in _jsonl_rows(self._path("train")):
            held_out = _share(*(turn.text for turn in turns)) < self.validation_share
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
            return file_digest(self._path(split))
        return _digest(file_digest(self._path("train")), split, str(self.validation_share))

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


class ChitChat:
    """The BYU chit-chat challenge (pip package `chitchat-dataset`, MIT): conversations of two people.

    Messages that one person sends in a row are one turn; who speaks first is the user. The split is fixed: by a
    hash of the conversation's id, 90 % train, 5 % validation, 5 % test.
    """

    PACKAGE = "chitchat_dataset"

    def __init__(self) -> None:
        spec = importlib.util.find_spec(self.PACKAGE)
        if spec is None or spec.origin is None:
            raise DataError("data=chitchat needs the package chitchat-dataset: pip install chitchat-dataset")
        self.path = Path(spec.origin).parent / "dataset.json"

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        for identifier, conversation in json.loads(self.path.read_text(encoding="utf-8")).items():
            messages = [message for group in conversation["messages"] for message in group]
            if len({message["sender"] for message in messages}) == 2 and _chitchat_split(identifier) == split:
                yield identifier, _two_speakers(messages)

    def digest(self, split: str) -> str:
        return _digest(file_digest(self.path), split)

    def describe(self, split: str) -> str:
        return f"package chitchat-dataset, split {split}"


def _chitchat_split(identifier: str) -> str:
    share = _share(identifier)
    return "validation" if share < 0.05 else "test" if share < 0.10 else "train"


def _two_speakers(messages: list[dict]) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        role = Role.USER if message["sender"] == messages[0]["sender"] else Role.ASSISTANT
        text = " ".join(message["text"].split())
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, f"{turns[-1].text} {text}".strip())
        else:
            turns.append(Turn(role, text))
    return turns


def dailydialog_file(folder: Path, split: str) -> Path:
    """The file of a split in a folder of any of the three kinds. Raises `DataError` with the names looked for."""
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
    raise DataError(f"{folder} has no {split} split: none of {', '.join(names)} is there (data.path)")


def _jsonl_rows(path: Path) -> Iterator[RawDialogue]:
    """Rows of a JSONL file; the id is the line number. Faulty lines are gathered and raised together."""
    faults: list[str] = []
    rows = 0
    for number, line in _lines(path, faults):
        if not line.strip():
            continue
        rows += 1
        try:
            yield str(number), turns_of_row(json.loads(line))
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


def _lines(path: Path, faults: list[str]) -> Iterator[tuple[int, str]]:
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


def _official_rows(path: Path) -> Iterator[RawDialogue]:
    """The official distribution: a dialogue a line, turns end in `__eou__`; plain or in a zip."""
    if path.suffix == ".zip":
        member = f"{path.stem}/dialogues_{path.stem}.txt"
        try:
            with zipfile.ZipFile(path) as archive:
                content = archive.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:  # broken, or encrypted
            raise DataError(f"{path} does not hold {member}: {error}; download it again") from None
    else:
        content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8; download it again") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            # What follows the last end mark is empty, not a turn.
            yield str(number), alternating(line.strip().removesuffix("__eou__").split("__eou__"))


def _hub_rows(hub_id: str, revision: str | None, column: str, split: str) -> Iterator[RawDialogue]:
    import datasets

    try:
        dataset = datasets.load_dataset(hub_id, revision=revision, split=split)
    except Exception as error:  # the hub's client raises many kinds; all mean that the data cannot be had
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
            yield str(index), turns_of_row({"turns": row[column]})
        except RowError as error:
            raise DataError(f"{hub_id}, split {split}, row {index} of {column!r}: {error} (data.hub_column)") from None


def _share(*parts: str) -> float:
    """A number in [0, 1) that depends on the texts alone."""
    return int(_digest(*parts)[:16], 16) / 16**16


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
