"""Finds the files of a split: a file, a folder or a pattern, with the split in the names of files or folders."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from dialog_trainer.data.sources.file_kinds import SUFFIXES, bare_suffix
from dialog_trainer.errors import DataError

_SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
# Files that describe data sets, which are no rows.
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
MAX_FILES = 1_000_000


def split_of(name: str) -> str | None:
    """The split that a name says: `train-00000-of-00002.parquet`, `dialogues_dev.csv`; None for any other."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), None)


def has_pattern(path: str) -> bool:
    """Whether a path that does not exist is a pattern."""
    return glob.has_magic(path) and not os.path.lexists(path)


def find_files(place: str) -> dict[str | None, list[Path]]:
    """The files at a file, folder or pattern, in the order of their names, by the split that their names say.

    Raises `DataError` if there is no file at all.
    """
    root = Path(place)
    if has_pattern(place):
        files = [Path(found) for found in sorted(glob.glob(place, recursive=True)) if os.path.isfile(found)]
        if not files:
            raise DataError(f"{place}: no file has such a name; correct the pattern")
        root = Path(os.path.commonpath([file.parent for file in files]))
    elif root.is_dir():
        files = _list_folder(root)
    else:
        return {None: [root]}
    if len(files) > MAX_FILES:
        raise DataError(f"{place} has more than {MAX_FILES:,} files; join them to larger ones")
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of_file(file.relative_to(root)), []).append(file)
    return by_split


def _list_folder(folder: Path) -> list[Path]:
    try:
        found = [path for path in sorted(folder.rglob("*")) if not path.name.startswith(".") and path.is_file()]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from None
    files = [path for path in found if bare_suffix(path.name) in SUFFIXES and path.name not in _DESCRIPTIONS]
    if not files:
        others = f"; it has {', '.join(path.name for path in found[:5])}" if found else "; it has no file"
        raise DataError(f"{folder} has no file of dialogues ({', '.join(SUFFIXES)}, perhaps with .gz or .zst){others}")
    return files


def _split_of_file(path: Path) -> str | None:
    """The split in the name of a file, else in that of the nearest folder."""
    return next((found for part in reversed(path.parts) if (found := split_of(part)) is not None), None)
