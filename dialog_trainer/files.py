"""Hashes, cache keys, and every write into a run or a cache: atomic, and through no link.

The functions take `(root, name)`. `root` is a directory that the user chose, and the path to it may pass links. `name` is a
path below it, which may have come from somebody else: no link in it is followed, and only regular files are opened. What is
new is made under a random temporary name that did not exist (O_EXCL), then renamed.

Each raises `OSError` that names the file.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path, PurePath

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# O_NONBLOCK: to open a named pipe must not wait for somebody to write to it.
_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def sha256_of_texts(*texts: str) -> str:
    """Hex sha256 of texts, joined by a NUL; a lone surrogate is hashed too."""
    return hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def why_unreadable(path: Path) -> str | None:
    """What keeps `path` from being read as a regular file, links followed, as the end of a message; None if nothing."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "is a link to a file that does not exist" if os.path.islink(path) else "does not exist"
    except (OSError, ValueError) as error:  # ValueError: a NUL or half of a character in the path
        return f"cannot be read ({getattr(error, 'strerror', error)})"
    if stat.S_ISDIR(mode):
        return "is a folder, not a file"
    if not stat.S_ISREG(mode):
        return "is no regular file but a pipe or a device: save what it gives to a file"
    return None if os.access(path, os.R_OK) else "cannot be read (permission denied)"


def why_no_folder(place: str, remedy: str = "") -> str:
    """The message for a folder that is not there: with the folders next to it that are spelt alike, else with a remedy."""
    return "there is no such folder" + (names_like(place, only_folders=True) or (remedy and f"; {remedy}"))


def names_like(place: str, only_folders: bool = False) -> str:
    """A hint at what is spelt like a missing file or folder and lies next to it; empty where nothing is, or the place is there."""
    parent, name = os.path.split(place.rstrip("/"))
    try:
        there = [entry.name for entry in os.scandir(parent or ".") if entry.is_dir() or not only_folders]
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    near = [] if name in there else difflib.get_close_matches(name, there, n=2)
    return f"; did you mean {' or '.join(os.path.join(parent, one) for one in near)}?" if near else ""


def is_disk_full(error: BaseException) -> bool:
    """Whether it says that a disk, a quota or a file has no room; libraries in Rust say so in the text alone."""
    codes = "|".join(map(str, DISK_FULL))
    return getattr(error, "errno", None) in DISK_FULL or bool(re.search(rf"\(os error ({codes})\)", str(error)))


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


def make_directory(root: Path, name: str) -> Path:
    """Makes the directory and those above it, up to `root`, where they are missing; returns its path."""
    with _open_parent(root, f"{name}/x", make=True):
        return root / name


def open_to_read(root: Path, name: str) -> BufferedReader:
    """Opens a regular file."""
    with _open_parent(root, name) as parent:
        return os.fdopen(_open_file(root, name, parent, os.O_RDONLY), "rb")


def read_bounded(root: Path, name: str, max_bytes: int) -> bytes:
    """The content of a regular file; `OSError` where it is larger than `max_bytes`."""
    with open_to_read(root, name) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, max_bytes) + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"is larger than {max_bytes:,} bytes", str(root / name))
    return content


def open_to_append(root: Path, name: str) -> BufferedRandom:
    """Opens a regular file for reading and appending, and makes it, and the directories above it, where it is missing.

    A file that has other names too (hard links) is first replaced by a copy: the others stay as they are.
    """
    with _open_parent(root, name, make=True) as parent:
        descriptor = _open_file(root, name, parent, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        if os.fstat(descriptor).st_nlink > 1:
            with os.fdopen(descriptor, "rb") as file:
                write_atomically(root, name, file.read())
            descriptor = _open_file(root, name, parent, os.O_RDWR | os.O_APPEND)
        return os.fdopen(descriptor, "ab+")


def write_atomically(root: Path, name: str, content: str | bytes) -> None:
    """Writes a file (text as UTF-8) so that readers, even after a crash, see the old content or the new, never a part.

    Makes missing directories. After an `OSError` the old file is untouched.
    """
    last = PurePath(name).name
    with _open_parent(root, name, make=True) as parent:
        temporary = f".{last}-{secrets.token_hex(8)}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666, dir_fd=parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, last, src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)
        except BaseException as error:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            raise _name_file(error, root / name) from None


def rename(root: Path, old: str, new: str) -> None:
    """Renames a file or directory, atomically; a link is renamed itself."""
    with _open_parent(root, old) as source, _open_parent(root, new) as target:
        try:
            os.rename(PurePath(old).name, PurePath(new).name, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)
        except OSError as error:
            raise _name_file(error, root / old) from None


def list_directory(root: Path, name: str) -> dict[str, str]:
    """What lies in a directory: name to `directory`, `file`, `link` or `other`; nothing where it is missing."""
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    try:
        with _open_parent(root, f"{name}/x") as descriptor:
            modes = {
                entry: os.stat(entry, dir_fd=descriptor, follow_symlinks=False) for entry in os.listdir(descriptor)
            }
    except FileNotFoundError:
        return {}
    return {entry: kinds.get(stat.S_IFMT(found.st_mode), "other") for entry, found in sorted(modes.items())}


def copy_directory(source: Path, root: Path, name: str) -> None:
    """Makes `name` a copy of a directory, in which each file is a hard link where the file system has them.

    A directory, or a link, of that name is replaced; a reader in between finds none.
    """
    with atomic_directory(root, name) as copy:
        for folder, _, names, descriptor in os.fwalk(source):
            inner = copy / Path(folder).relative_to(source)
            inner.mkdir(exist_ok=True)
            for file in names:
                try:
                    os.link(file, inner / file, src_dir_fd=descriptor, follow_symlinks=False)
                except OSError:
                    shutil.copyfile(Path(folder, file), inner / file, follow_symlinks=False)
        if PurePath(name).name in list_directory(root, PurePath(name).parent.as_posix()):
            rename(root, name, PurePath(name).with_name(f".gone-{secrets.token_hex(8)}").as_posix())


def remove_directory(root: Path, name: str) -> None:
    """Removes a directory with all in it, as far as that is possible; a link is removed itself."""
    last = PurePath(name).name
    with suppress(OSError), _open_parent(root, name) as parent:
        if _is_link(last, parent):
            os.unlink(last, dir_fd=parent)
        else:
            shutil.rmtree(last, ignore_errors=True, dir_fd=parent)


@contextmanager
def atomic_directory(root: Path, name: str, prefix: str = ".aside-") -> Iterator[Path]:
    """Yields a new empty directory next to `name`; at the end of the block syncs all in it and renames it.

    After an exception the new directory is removed. A killed process may leave `<prefix>*` behind.
    """
    temporary = PurePath(name).with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(8)}").as_posix()
    with _open_parent(root, name) as parent:
        os.mkdir(PurePath(temporary).name, dir_fd=parent)  # not by tempfile: other users could not read it
    try:
        yield root / temporary
        mode = (root / temporary).stat().st_mode & 0o666  # as the umask says; some libraries write 0600
        for path in (root / temporary).rglob("*"):
            if path.is_file():
                path.chmod(mode)
            sync_path(path)
        sync_path(root / temporary)
        rename(root, temporary, name)
    except BaseException as error:
        remove_directory(root, temporary)
        raise (_name_file(error, root / name) if getattr(error, "filename", None) is None else error) from None


@contextmanager
def _open_parent(root: Path, name: str, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the directory that holds `name`, reached without a link below `root`."""
    parts = PurePath(name).parts
    if not parts or any(part in ("..", "/") for part in parts):
        raise OSError(errno.EINVAL, "is no path below its folder", f"{root}/{name}")
    descriptor = os.open(root, _DIRECTORY | os.O_CLOEXEC)
    try:
        for index, part in enumerate(parts[:-1], start=1):
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            child = _open(root, PurePath(*parts[:index]).as_posix(), descriptor, _DIRECTORY)
            os.close(descriptor)
            descriptor = child
        yield descriptor
    finally:
        os.close(descriptor)


def _open_file(root: Path, name: str, parent: int, flags: int) -> int:
    descriptor = _open(root, name, parent, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(root / name))
    return descriptor


def _open(root: Path, name: str, parent: int, flags: int) -> int:
    last = PurePath(name).name
    try:
        return os.open(last, flags | _NO_LINK, 0o666, dir_fd=parent)
    except OSError as error:
        if _is_link(last, parent):
            raise OSError(
                errno.ELOOP, "is a link, and inside a run or cache none is followed", str(root / name)
            ) from None
        raise _name_file(error, root / name) from None


def _is_link(last: str, parent: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _name_file(error: BaseException, path: Path) -> BaseException:
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, error.strerror, str(path))
    return error
