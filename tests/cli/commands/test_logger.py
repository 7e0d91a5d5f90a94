"""Runs with a logger: it shows their rows, and never changes or stops them."""

import pytest
from helpers.checkpoints import digests

from dialog_trainer.tracking.jsonl import read_newest_rows

pytestmark = pytest.mark.slow


def read_scalars(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def columns(run, split, name):
    rows = read_newest_rows(run / "metrics.jsonl", split)
    return [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]


def test_tensorboard_shows_a_run_and_its_resume(dialog_trainer, tiny_options, tmp_path):
    run = tmp_path / "runs/run"
    code, out, err = dialog_trainer(
        *tiny_options, "logger=tensorboard", "validate_every_n_steps=3", "save_every_n_steps=4", "steps=6"
    )
    assert code == 0, out + err
    code, out, err = dialog_trainer(
        "mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", "steps=9", "schedule_steps=9"
    )
    assert code == 0, out + err
    scalars = read_scalars(run)
    assert [step for step, _ in scalars["train/train_loss"]] == list(range(9))
    assert [step for step, _ in scalars["validation/ppl"]] == [3, 6, 9]
    for split, name in (("train", "train_loss"), ("train", "lr"), ("validation", "validation_loss")):
        assert scalars[f"{split}/{name}"] == columns(run, split, name)


@pytest.fixture
def failing_logger(tmp_path, monkeypatch):
    (tmp_path / "failing_logger.py").write_text(
        "class Logger:\n"
        "    def log(self, row):\n"
        "        raise ConnectionError('no route to host')\n"
        "    def close(self):\n"
        "        raise ValueError('never opened')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "logger._target_=failing_logger.Logger"


def test_failing_logger_changes_nothing(dialog_trainer, tiny_options, tmp_path, failing_logger):
    outputs = {}
    for name, options in {"plain": (), "logged": (failing_logger,)}.items():
        code, outputs[name], err = dialog_trainer(*tiny_options, "model.dropout=0.2", f"name={name}", *options)
        assert code == 0, outputs[name] + err
    assert digests(tmp_path / "runs/logged") == digests(tmp_path / "runs/plain")
    assert "the logger failed" not in outputs["plain"]
    assert outputs["logged"].count("the logger failed and is off from here on") == 1
    assert "ConnectionError: no route to host" in " ".join(outputs["logged"].split())


def test_logger_of_ones_own_gets_its_arguments_and_every_row(dialog_trainer, tiny_options, tmp_path, monkeypatch):
    (tmp_path / "own_logger.py").write_text(
        "class Logger:\n"
        "    def __init__(self, run_directory, suffix):\n"
        "        self.file = (run_directory / f'logged{suffix}').open('a')\n"
        "    def log(self, row):\n"
        "        print(row['split'], row['step'], file=self.file)\n"
        "    def close(self):\n"
        "        print('closed', file=self.file)\n"
        "        self.file.close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = dialog_trainer(
        *tiny_options, "steps=2", "logger._target_=own_logger.Logger", "+logger.suffix=.txt"
    )
    assert code == 0, out + err
    logged = (tmp_path / "runs/run/logged.txt").read_text().splitlines()
    assert logged == ["train 0", "train 1", "validation 2", "closed"]


def test_logger_that_is_not_there_is_a_config_error(dialog_trainer, tiny_options, tmp_path):
    code, _, err = dialog_trainer(*tiny_options, "logger._target_=no_such_module.Logger")
    assert code == 2
    assert "logger._target_=no_such_module.Logger" in err.replace("\n", "")
    assert not (tmp_path / "runs").exists()
