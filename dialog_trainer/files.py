"""Hashes, cache keys, atomic writes (temporary file, fsync, rename) and directories built once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dialog_trainer.errors import DataError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sha256_of_texts(*texts: str) -> str:
    """Hex sha256 of texts, joined by a NUL; a lone surrogate is hashed too."""
    return hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_key(*parts: object) -> str:
    """24 hex digits that depend on `str()` of each part, in order."""
    return sha256_of_texts(json.dumps(list(map(str, parts))))[:24]


def sync_path(path: Path) -> None:
    """Flushes a file, or the entries of a directory, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file (text as UTF-8) so that readers, even after a crash, see the old content or the new, never a part.

    Raises `OSError`; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        sync_path(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


@contextmanager
def atomic_directory(directory: Path) -> Iterator[Path]:
    """Yields an empty temporary directory; at the end of the block syncs all in it and renames it to `directory`.

    After an exception the temporary directory is removed. A killed process may leave `.aside-*` behind.
    """
    temporary = directory.parent / f".aside-{os.getpid()}-{time.monotonic_ns()}"
    temporary.mkdir()  # not by tempfile: other users could not read it
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync_path(path)
        temporary.rename(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_path(directory.parent)


def build_directory_once(directory: Path, write: Callable[[Path], object]) -> Path:
    """Returns a directory of the cache; where it is missing, `write` first fills a temporary one that takes its place.

    Of two processes that build it at once, the first to finish publishes its own.
    Raises `DataError` if the cache cannot be written or the disk is full.
    """
    if directory.exists():
        return directory
    cache, remedy = directory.parent, "pass data.cache_dir=<folder>"
    try:
        with ExitStack() as stack:
            try:
                cache.mkdir(parents=True, exist_ok=True)
                temporary = stack.enter_context(atomic_directory(directory))
            except OSError as error:
                raise DataError(f"{cache} cannot be written ({error.strerror}): {remedy}") from None
            write(temporary)
    except OSError as error:
        if directory.exists():  # ENOTEMPTY: another process has published the same content
            return directory
        if error.errno not in _DISK_FULL:
            raise
        raise DataError(f"{cache} is full ({error.strerror}): make room, or {remedy}") from None
    return directory
