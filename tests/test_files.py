"""Writes below a run or a cache: atomic, through no link, and no temporary file is left."""

import errno
import os
import stat
from pathlib import Path

import pytest

from dialog_trainer.files import (
    atomic_directory,
    make_directory,
    names_like,
    open_to_append,
    open_to_read,
    read_bounded,
    remove_directory,
    rename,
    write_atomically,
)


def fail(*arguments, **keys):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def root(tmp_path):
    """A run folder reached through a link, beside a folder that is none of its business."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("precious")
    (tmp_path / "run").symlink_to("scratch")
    return tmp_path / "run"


@pytest.mark.parametrize("content", ["grün\r\n\u2028", b"\xff\x00"])
def test_write_replaces_the_file(root, content):
    write_atomically(root, "inner/file", "old")
    write_atomically(root, "inner/file", content)
    assert (root / "inner/file").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(root / "inner") == ["file"]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file(root, monkeypatch, stage):
    write_atomically(root, "file", "old")
    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(root, "file", "new")
    assert caught.value.filename == str(root / "file")
    assert (root / "file").read_text() == "old"
    assert os.listdir(root) == ["file"]


def test_content_is_on_the_disk_before_the_rename(root, monkeypatch):
    synced, fsync = set(), os.fsync

    def note(rename):
        def noting(source, target, *, src_dir_fd, dst_dir_fd):
            path = Path(os.readlink(f"/proc/self/fd/{src_dir_fd}")) / source
            assert {inner.stat().st_ino for inner in (path, *path.rglob("*"))} <= synced
            return rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        return noting

    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), synced.add(os.fstat(descriptor).st_ino)))
    monkeypatch.setattr(os, "replace", note(os.replace))
    monkeypatch.setattr(os, "rename", note(os.rename))
    write_atomically(root, "file", "content")
    with atomic_directory(root, "directory") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("content")
    assert root.stat().st_ino in synced
    assert (root / "directory/inner/file").read_text() == "content"


def test_failed_directory_is_removed(root):
    with pytest.raises(FileNotFoundError), atomic_directory(root, "directory") as temporary:
        (temporary / "no directory" / "file").write_text("half")
    assert os.listdir(root) == []


READS = {"open_to_read": open_to_read, "read_bounded": lambda root, name: read_bounded(root, name, 100)}
APPENDS = {"open_to_append": open_to_append}
MAKES = {
    "make_directory": make_directory,
    "atomic_directory": lambda root, name: atomic_directory(root, name).__enter__(),
    "write_atomically": lambda root, name: write_atomically(root, name, "x"),
    "rename into": lambda root, name: (write_atomically(root, "own", ""), rename(root, "own", name)),
    "rename from": lambda root, name: rename(root, name, "own"),
}


@pytest.mark.parametrize("call", {**READS, **APPENDS, **MAKES}.values(), ids={**READS, **APPENDS, **MAKES})
@pytest.mark.parametrize("name", ["link/file", "link/new/file", "../victim/file", "/victim/file"])
def test_no_path_leads_out_of_the_root(root, call, name):
    (root / "link").symlink_to("../victim")
    with pytest.raises(OSError, match=r"is a link, and|is no path below|[Nn]ot a directory"):
        call(root, name)
    assert os.listdir(root / "../victim") == ["file"]
    assert (root / "../victim/file").read_text() == "precious"


@pytest.mark.parametrize("call", {**READS, **APPENDS}.values(), ids={**READS, **APPENDS})
@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_only_regular_files_are_opened(root, call, kind):
    make = {"link": lambda path: path.symlink_to("../victim/file"), "pipe": os.mkfifo, "directory": Path.mkdir}
    make[kind](root / "odd")
    with pytest.raises(OSError, match=r"is a link, and|is no regular file|Is a directory|No such device"):
        call(root, "odd")


def test_a_link_in_the_way_of_a_write_is_replaced_itself(root):
    (root / "file").symlink_to("../victim/file")
    write_atomically(root, "file", "own")
    assert (root / "../victim/file").read_text() == "precious"
    assert (root / "file").read_text() == "own"
    assert not (root / "file").is_symlink()


def test_append_leaves_the_other_names_of_a_file_alone(root):
    os.link(root / "../victim/file", root / "rows")
    for line in (b" one", b" two"):
        with open_to_append(root, "rows") as file:
            file.write(line)
    assert (root / "rows").read_text() == "precious one two"
    assert (root / "../victim/file").read_text() == "precious"


def test_removing_a_directory_leaves_what_its_links_name(root):
    (root / "gone").mkdir()
    (root / "gone" / "link").symlink_to("../../victim")
    remove_directory(root, "gone")
    (root / "link").symlink_to("../victim")
    remove_directory(root, "link")
    assert os.listdir(root) == []
    assert os.listdir(root / "../victim") == ["file"]


def test_files_are_made_by_the_umask(root):
    before = os.umask(0o027)
    try:
        write_atomically(root, "file", "")
        open_to_append(root, "rows").close()
        with atomic_directory(root, "directory") as temporary:
            os.close(os.open(temporary / "weights", os.O_CREAT, 0o600))
    finally:
        os.umask(before)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in root.rglob("*")}
    assert modes == {"file": "0o640", "rows": "0o640", "directory": "0o750", "weights": "0o640"}


def test_a_read_is_bounded(root):
    write_atomically(root, "file", "12345")
    assert read_bounded(root, "file", 5) == b"12345"
    with pytest.raises(OSError, match="is larger than 4 bytes"):
        read_bounded(root, "file", 4)


def test_names_like_a_missing_one(tmp_path):
    (tmp_path / "chats").mkdir()
    (tmp_path / "rows.csv").touch()
    assert names_like(f"{tmp_path}/chat/", only_folders=True) == f"; did you mean {tmp_path}/chats?"
    assert names_like(f"{tmp_path}/rows.cvs") == f"; did you mean {tmp_path}/rows.csv?"
    for none in (f"{tmp_path}/other", f"{tmp_path}/chats", f"{tmp_path}/nowhere/chat", "a\0b", "", "/"):
        assert names_like(none) == "", none
