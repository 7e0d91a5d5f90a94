"""Atomic writes: a reader sees the old content or the new; errors leave the old and no temporary file."""

import errno
import os
from pathlib import Path

import pytest

from dialog_trainer.errors import DataError
from dialog_trainer.files import atomic_directory, build_directory_once, write_atomically


def fail(*arguments, **keys):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("content", ["grün\r\n\u2028", b"\xff\x00"])
def test_write_replaces_the_file(tmp_path, content):
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("stage", ["pathlib.Path.write_bytes", "os.fsync", "os.replace"])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, stage):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(stage, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    synced, fsync = set(), os.fsync

    def note(rename):
        def noting(source, target):
            paths = [Path(source), *Path(source).rglob("*")]
            assert {path.stat().st_ino for path in paths} <= synced
            return rename(source, target)

        return noting

    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), synced.add(os.fstat(descriptor).st_ino)))
    monkeypatch.setattr(os, "replace", note(os.replace))
    monkeypatch.setattr(Path, "rename", note(Path.rename))
    write_atomically(tmp_path / "file", "content")
    with atomic_directory(tmp_path / "directory") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("content")
    assert tmp_path.stat().st_ino in synced
    assert (tmp_path / "directory/inner/file").read_text() == "content"


def test_failed_directory_is_removed(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "directory") as temporary:
        (temporary / "no directory" / "file").write_text("half")
    assert os.listdir(tmp_path) == []


def test_first_of_two_builders_wins(tmp_path):
    directory = tmp_path / "cache" / "one"

    def second(temporary):
        (temporary / "file").write_text("second")
        build_directory_once(directory, lambda earlier: (earlier / "file").write_text("first"))

    assert build_directory_once(directory, second) == directory
    assert build_directory_once(directory, fail) == directory
    assert (directory / "file").read_text() == "first"
    assert list(directory.parent.iterdir()) == [directory]


@pytest.mark.parametrize(("write", "reason"), [(fail, "cache is full"), (None, "cannot be written")])
def test_cache_that_cannot_be_built_names_the_option(tmp_path, write, reason):
    cache = tmp_path / "cache"
    if write is None:
        cache.write_text("a file")
    with pytest.raises(DataError, match=rf"{reason} .*pass data.cache_dir=<folder>"):
        build_directory_once(cache / "one", write)
    assert write is None or list(cache.iterdir()) == []
