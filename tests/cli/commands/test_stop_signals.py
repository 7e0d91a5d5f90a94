"""Runs in a process of their own that are stopped from outside."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def started(options: list[str], folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dialog_trainer", *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def wait_for_row(metrics: Path, step: int, process: subprocess.Popen) -> None:
    while process.poll() is None:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
    raise AssertionError(process.stdout.read())


def digests(run: Path) -> list[str]:
    files = ("model.safetensors", "trainer/optimizer.safetensors")
    return [hashlib.sha256((run / "weights/last" / name).read_bytes()).hexdigest() for name in files]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_run_goes_on_exactly(tiny_options, tmp_path, dialog_trainer, number, code):
    options = [*tiny_options, "model.dropout=0.2", "steps=400", "schedule_steps=400", "metrics.max_dialogues=1"]
    process = started([*options, "name=stopped", "validate_every_n_steps=1000"], tmp_path)
    run = tmp_path / "runs/stopped"
    wait_for_row(run / "metrics.jsonl", 5, process)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == code, output
    assert "load_model_type=last" in output
    assert "Traceback" not in output
    state = json.loads((run / "weights/last/trainer/state.json").read_text())
    assert 5 < state["step"] < 400
    last_row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last_row["step"] == state["step"] - 1
    steps = state["step"] + 3
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
    process = started(options, tmp_path)
    run = tmp_path / "runs/killed"
    wait_for_row(run / "metrics.jsonl", 8, process)
    process.kill()
    process.communicate()
    state = json.loads((run / "weights/last/trainer/state.json").read_text())
    steps = state["step"] + 2
    resumed = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", f"steps={steps}")
    code, out, err = dialog_trainer(*resumed)
    assert code == 0, out + err
    straight = [*options, "name=straight", f"steps={steps}", "schedule_steps=100000"]
    assert dialog_trainer(*straight)[0] == 0
    assert digests(run) == digests(tmp_path / "runs/straight")
    assert sorted(path.name for path in (run / "weights").iterdir()) == [
        "best_loss", "best_metric", "last", f"step-{steps:08d}",
    ]  # fmt: skip
