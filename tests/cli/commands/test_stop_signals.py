"""Runs in a process of their own that are stopped from outside."""

import json
import os
import signal

import pytest
from helpers.checkpoints import digests
from helpers.processes import forked, state

pytestmark = pytest.mark.slow


def test_a_stopped_run_goes_on_exactly(tiny_options, tmp_path, dialog_trainer):
    options = [*tiny_options, "model.dropout=0.2", "steps=400", "schedule_steps=400", "metrics.max_dialogues=1"]
    run = tmp_path / "runs/stopped"
    with forked([*options, "name=stopped", "validate_every_n_steps=1000"], tmp_path) as job:
        job.row(run / "metrics.jsonl", 5)
        os.kill(job.pid, signal.SIGTERM)
        found, output = job.ended()
    assert found == 75, output
    assert "load_model_type=last" in output
    assert "Traceback" not in output
    step = state(run)["step"]
    assert 5 < step < 400
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == step - 1
    steps = step + 3
    code, out, err = dialog_trainer(
        "mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", f"steps={steps}"
    )
    assert code == 0, out + err
    code, out, err = dialog_trainer(*options, "name=straight", f"steps={steps}", "validate_every_n_steps=1000")
    assert code == 0, out + err
    assert digests(run) == digests(tmp_path / "runs/straight")


def test_a_killed_run_leaves_a_whole_checkpoint(tiny_options, tmp_path, dialog_trainer):
    options = [
        *tiny_options,
        "name=killed",
        "model.dropout=0.2",
        "steps=100000",
        "save_every_n_steps=1",
        "validate_every_n_steps=99999",
    ]
    run = tmp_path / "runs/killed"
    with forked(options, tmp_path) as job:
        job.row(run / "metrics.jsonl", 8)
        os.kill(job.pid, signal.SIGKILL)
        job.ended()
    steps = state(run)["step"] + 2
    resumed = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", f"steps={steps}")
    code, out, err = dialog_trainer(*resumed)
    assert code == 0, out + err
    straight = [*options, "name=straight", f"steps={steps}", "schedule_steps=100000"]
    assert dialog_trainer(*straight)[0] == 0
    assert digests(run) == digests(tmp_path / "runs/straight")
    assert sorted(path.name for path in (run / "weights").iterdir()) == [
        "best_loss", "best_metric", "last", f"step-{steps - 1:08d}", f"step-{steps:08d}",
    ]  # fmt: skip
