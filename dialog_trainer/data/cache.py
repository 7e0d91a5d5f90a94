"""The cache: directories that are built once, checked against the digests of their files, and built again where they differ.

<cache>/<kind>-<key>/   what was built, and manifest.json: size and sha256 of each file
<cache>/.aside-*        one that is being written, or what a killed process left of it
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from dialog_trainer.errors import DataError
from dialog_trainer.files import (
    atomic_directory,
    is_disk_full,
    list_directory,
    open_to_read,
    read_bounded,
    remove_directory,
    rename,
    sync_path,
)
from dialog_trainer.types import Say

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 2**20
# A larger file of a dataset is checked when it is first used, as a start need not read it.
LAZY_BYTES = 2 * 10**9
# What another machine, or another container, writes is a leftover once nothing of it has changed for so long.
LEFTOVER_SECONDS = 24 * 3600

_ASIDE = ".aside-"
_REMEDY = "pass data.cache_dir=<folder>"


def open_entry(
    cache_dir: Path, name: str, write: Callable[[Path], object], say: Say, *, check_up_to: int = sys.maxsize
) -> Path:
    """The directory `name` of the cache. Where it is missing or damaged, `write` fills a new one that takes its place.

    Args:
        check_up_to: files of more bytes are not hashed; all are looked for, and their sizes compared.

    Of two processes that build it at once, the first to finish publishes its own.
    Raises `DataError` if the cache cannot be written or the disk is full.
    """
    remove_leftovers(cache_dir)
    problem = find_damage(cache_dir, name, check_up_to)
    if problem is None:
        return cache_dir / name
    try:
        if os.path.lexists(cache_dir / name):
            with _lock(cache_dir):  # another process may have built it again since
                problem = find_damage(cache_dir, name, check_up_to)
                if problem is None:
                    return cache_dir / name
                say(f"note: {cache_dir / name} is built again: {problem}")
                _remove(cache_dir, name)
        _build(cache_dir, name, write)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and find_damage(cache_dir, name, check_up_to) is None:
            return cache_dir / name  # another process has published the same content
        raise
    return cache_dir / name


@contextmanager
def _lock(cache_dir: Path) -> Iterator[None]:
    """Holds the directory of the cache; on a file system without locks it does nothing."""
    descriptor = os.open(cache_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def find_damage(cache_dir: Path, name: str, check_up_to: int = sys.maxsize) -> str | None:
    """Why the directory `name` of the cache is not as it was written, None if it is; `check_up_to` as in `open_entry`."""
    try:
        manifest = json.loads(read_bounded(cache_dir, f"{name}/{MANIFEST}", MAX_MANIFEST_BYTES))
        for file_name, (size, digest) in manifest.items():
            with open_to_read(cache_dir, f"{name}/{file_name}") as file:
                if os.fstat(file.fileno()).st_size != size:
                    return f"{file_name} has another size than {MANIFEST} says"
                if size <= check_up_to and hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{file_name} and {MANIFEST} differ (sha256)"
        unlisted = sorted(list_directory(cache_dir, name).keys() - manifest.keys() - {MANIFEST})
        if unlisted and not unlisted[-1].startswith("."):  # hidden files are the system's
            return f"{unlisted[-1]} is not in {MANIFEST}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or name).name}: {error.strerror}"
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return None


def remove_leftovers(cache_dir: Path) -> None:
    """Removes the directories that writers which are gone have left."""
    for name in os.listdir(cache_dir) if cache_dir.is_dir() else ():
        if name.startswith(_ASIDE) and _is_leftover(cache_dir / name):
            remove_directory(cache_dir, name)


def _build(cache_dir: Path, name: str, write: Callable[[Path], object]) -> None:
    with ExitStack() as stack:
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            directory = stack.enter_context(atomic_directory(cache_dir, name, f"{_ASIDE}{_machine()}-"))
        except OSError as error:
            raise DataError(f"{cache_dir} cannot be written ({error.strerror}): {_REMEDY}") from None
        try:
            write(directory)
            _write_manifest(directory)
            for path in directory.iterdir():
                sync_path(path)
        except Exception as error:  # tokenizers raises a bare one where the disk is full
            if not is_disk_full(error):
                raise
            needed = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            raise DataError(
                f"{cache_dir} is full: {name} needs more than {needed:,} bytes, and "
                f"{shutil.disk_usage(cache_dir).free:,} are free ({getattr(error, 'strerror', None) or error}): "
                f"make room, or {_REMEDY}"
            ) from None


def _write_manifest(directory: Path) -> None:
    manifest = {}
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            manifest[path.name] = [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
    (directory / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _remove(cache_dir: Path, name: str) -> None:
    """Removes a directory, a file or a link; first renamed, so that nobody sees a half of it."""
    aside = f"{_ASIDE}{_machine()}-{os.getpid()}-{name}"
    try:
        rename(cache_dir, name, aside)
    except FileNotFoundError:  # another process has just done it
        return
    except OSError as error:
        raise DataError(f"{cache_dir / name} cannot be replaced ({error.strerror}): {_REMEDY}") from None
    if (cache_dir / aside).is_dir() and not (cache_dir / aside).is_symlink():
        remove_directory(cache_dir, aside)
    else:
        (cache_dir / aside).unlink()


def _is_leftover(path: Path) -> bool:
    """Whether its writer is gone: known on its own machine, else by its age."""
    machine, _, rest = path.name.removeprefix(_ASIDE).partition("-")
    pid = rest.partition("-")[0]
    if machine == _machine() and pid.isdecimal() and not _is_alive(int(pid)):
        return True
    try:
        newest = max(one.lstat().st_mtime for one in (path, *path.rglob("*")))
    except OSError:  # it is being removed, or renamed to what it becomes
        return False
    return time.time() - newest > LEFTOVER_SECONDS


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


@cache
def _machine() -> str:
    """A name for where process ids mean the same: this host since it was started, and this container."""
    parts = [socket.gethostname()]
    try:
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    except OSError:  # not Linux
        parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
