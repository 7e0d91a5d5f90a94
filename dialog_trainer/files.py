"""files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from dialog_trainer.errors import DataError


def sha256_of_texts(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The sha256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_directory_once(folder: Path, write: Callable[[Path], object]) -> Path:
    """`folder`, filled by `write` where it is not there yet: aside, and renamed when that has ended well.

    Raises `DataError` where it cannot be made or the disk is full.
    """
    if folder.exists():
        return folder
    aside = folder.parent / f".aside-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()  # not by tempfile, whose folders others cannot read
    except OSError as error:
        raise DataError(f"{folder.parent} cannot be written ({error.strerror}): pass data.cache_dir=<folder>") from None
    try:
        write(aside)
        try:
            aside.rename(folder)
        except OSError:  # ENOTEMPTY where another process published the same content first
            if not folder.exists():
                raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"{folder.parent} is full ({error.strerror}): make room, or pass data.cache_dir=<folder>"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def cache_key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(list(map(str, parts))).encode("utf-8")).hexdigest()[:24]
