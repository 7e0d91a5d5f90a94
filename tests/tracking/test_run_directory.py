"""The directory of a run: its name, its lock, and its saved configuration."""

import fcntl
import os
import threading

import pytest
import yaml

from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.tracking.run_directory import claim_run_directory, lock_run_directory, replace_config, write_config

CONFIG = {"seed": 0, "name": "한국", "metrics": {"best": {"bleu2": 1.0}}, "data": {"path": None}}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder, CONFIG, {"overrides": ["seed=0"]})
    return folder


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_taken_name_gets_the_next_number(tmp_path):
    project = tmp_path / "a b" / "한국"
    assert [claim_run_directory(project, "run").name for _ in range(3)] == ["run", "run2", "run3"]
    (project / "run2").rmdir()
    (project / "run4").touch()  # a file takes a name as well
    assert [claim_run_directory(project, "run").name for _ in range(2)] == ["run2", "run5"]


def test_concurrent_claims_get_different_directories(tmp_path):
    start, claimed = threading.Barrier(12), []

    def ask():
        start.wait()
        claimed.append(claim_run_directory(tmp_path / "project", "run"))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in claimed) == sorted(["run", *(f"run{n}" for n in range(2, 13))])


def test_claim_that_fails_is_a_config_error(tmp_path):
    (tmp_path / "file").touch()
    for project, name in ((tmp_path / "file", "run"), (tmp_path / "file" / "deeper", "run"), (tmp_path, "a" * 300)):
        with pytest.raises(ConfigError, match=r"project=.* name=.*: cannot be made \(.+\); choose another"):
            claim_run_directory(project, name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_config_is_saved_in_order_and_readable(run):
    saved = read(run / "args.yaml")
    assert saved == read(run / ".hydra/config.yaml") == CONFIG | {"run_id": saved["run_id"]}
    assert read(run / ".hydra/overrides.yaml") == ["seed=0"]
    assert "한국" in (run / "args.yaml").read_text(encoding="utf-8")
    assert list(saved) == [*CONFIG, "run_id"]
    assert sorted(path.name for path in run.rglob("*")) == [".hydra", "args.yaml", "config.yaml", "overrides.yaml"]


def test_unchanged_config_is_not_rewritten(run):
    before = (run / "args.yaml").stat()
    replace_config(run, dict(CONFIG), attempt=1)
    after = (run / "args.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(path.name for path in run.iterdir()) == [".hydra", "args.yaml"]


def test_configs_of_earlier_attempts_stay(run):
    for attempt in (1, 2):
        replace_config(run, CONFIG | {"seed": attempt}, attempt)
    seeds = {path.name: read(path)["seed"] for path in run.glob("args*.yaml")}
    assert seeds == {"args.0.yaml": 0, "args.1.yaml": 1, "args.yaml": 2}
    assert read(run / ".hydra/config.yaml")["seed"] == 0
    assert not list(run.glob(".args*"))


def test_attempt_without_rows_gives_its_number_back(run):
    for seed in (1, 2):
        replace_config(run, CONFIG | {"seed": seed}, attempt=1)
    seeds = {path.name: read(path)["seed"] for path in run.glob("args*.yaml")}
    assert seeds == {"args.0.yaml": 0, "args.yaml": 2}


def test_locked_run_is_refused_until_released(run):
    descriptor = os.open(run, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(CheckpointError, match="is in use by another process"), lock_run_directory(run):
        pytest.fail("two processes hold the lock")
    os.close(descriptor)
    with lock_run_directory(run), pytest.raises(CheckpointError), lock_run_directory(run):
        pytest.fail("this process locked it twice")
    with lock_run_directory(run):
        assert sorted(path.name for path in run.iterdir()) == [".hydra", "args.yaml"]


def test_lock_ends_with_an_exception(run):
    def fail():
        with lock_run_directory(run):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fail()
