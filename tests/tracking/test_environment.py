"""environment.json: command line, git commit and state, packages, machine."""

import json
import os
import subprocess

import pytest

from dialog_trainer.tracking.environment import describe_git, read_environment, write_environment

NAMES = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}


def git(folder, *arguments):
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **NAMES}, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_and_its_state_are_named_and_nothing_of_the_repository_runs(tmp_path):
    assert describe_git(tmp_path) == "no checkout"
    git(tmp_path, "init", "-q")
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert describe_git(tmp_path) == f"commit {commit}, unchanged"
    (tmp_path / "a.txt").write_text("b")
    git(tmp_path, "config", "core.fsmonitor", f"touch {tmp_path}/ran; false")
    assert describe_git(tmp_path) == f"commit {commit}, with changes in 1 file"
    assert not (tmp_path / "ran").exists()


def test_what_is_written_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x/__main__.py", "steps=4", "name=a b"])
    write_environment(tmp_path, "cpu")
    found = read_environment(tmp_path)
    assert found["command line"].endswith("steps=4 'name=a b'")
    assert found["device"] == "cpu"
    assert "torch 2" in found["packages"]
    assert found["machine"].endswith(f"{os.cpu_count()} CPUs")


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, json.dumps({"git": 3}), " " * 2**17])
def test_somebody_elses_file_is_nothing(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    assert read_environment(tmp_path) == {}
    assert read_environment(tmp_path / "none") == {}
