"""Systems, users and folders that lack something: works, or says what is missing."""

import os
import pwd
import sys
import tempfile

import pytest

from dialog_trainer.cli.main import main
from dialog_trainer.cli.places import check_places
from dialog_trainer.errors import ConfigError
from dialog_trainer.tracking.run_directory import lock_run_directory


def unknown(number: int):
    raise KeyError(number)


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A user without HOME and without an entry in the list of users; the temporary directory is `tmp_path`."""
    monkeypatch.setenv("HOME", "/")  # put back after the test
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"dialog_trainer-{os.getuid()}"


def test_a_user_without_a_home_gets_a_private_one(homeless, capsys):
    for _ in range(2):  # the second process finds it
        check_places()
        assert os.environ.pop("HOME") == str(homeless)
        assert f"caches are in {homeless}" in capsys.readouterr().err
    assert homeless.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("planted", ["link", "file", "open folder"])
def test_a_home_that_somebody_else_may_have_made_is_refused(homeless, planted, tmp_path):
    if planted == "link":
        homeless.symlink_to(tmp_path)
    elif planted == "file":
        homeless.touch()
    else:
        homeless.mkdir()
        homeless.chmod(0o777)
    with pytest.raises((ConfigError, FileExistsError), match=str(homeless)):
        check_places()
    assert "HOME" not in os.environ


def test_a_current_folder_that_is_gone_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(
        ConfigError, match=r"the current folder cannot be used \(No such file or directory\): cd to one"
    ):
        check_places()


def test_a_system_without_directory_descriptors_is_named(monkeypatch, capsys):
    monkeypatch.setattr(os, "supports_dir_fd", set())
    assert main(["data=chitchat"]) == 2
    assert "use Linux, macOS or WSL" in capsys.readouterr().err
    assert main(["--version"]) == 0


def test_a_system_without_locks_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with lock_run_directory(tmp_path):
        assert "this system has no file locks" in capsys.readouterr().err
