"""Runs that earlier versions saved: they resume to the same values, validate and chat."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SAVED_RUNS = Path(__file__).resolve().parents[2] / "saved_runs"
VERSIONS = sorted(path.name for path in SAVED_RUNS.iterdir() if path.is_dir())

pytestmark = pytest.mark.slow


@pytest.fixture(params=VERSIONS)
def folder(request, tmp_path, monkeypatch):
    """A copy of the folder of a version, as the current folder: its runs name their data by relative paths."""
    copy = tmp_path / request.param
    shutil.copytree(SAVED_RUNS / request.param, copy, symlinks=True)
    monkeypatch.chdir(copy)
    return copy


def read_losses(folder: Path, split: str, key: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "runs/half/metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if row["split"] == split and row["attempt"] == 1}


def test_an_old_run_resumes_to_what_it_would_have_been(dialog_trainer, folder):
    code, out, err = dialog_trainer("mode=resume", "resume_model_dir=runs/half", "load_model_type=last", "steps=12")
    assert code == 0, out + err
    assert "not exactly" not in out
    expected = json.loads((folder / "straight.json").read_text())
    for split, key in (("train", "train_loss"), ("validation", "validation_loss")):
        found = read_losses(folder, split, key)
        # Bounds for processors that round otherwise in the last bits.
        assert found == pytest.approx({int(step): value for step, value in expected[key].items()}, abs=2e-6)
    found, straight = (
        load_file(path)
        for path in (folder / "runs/half/weights/last/model.safetensors", folder / "straight.safetensors")
    )
    for name in found:
        if name.endswith("attn.c_attn.bias"):
            # The softmax does not depend on the bias of the keys: its gradient is rounding, which Adam scales up.
            (query, _, value), (straight_query, _, straight_value) = found[name].chunk(3), straight[name].chunk(3)
            found[name], straight[name] = torch.cat((query, value)), torch.cat((straight_query, straight_value))
    torch.testing.assert_close(found, straight, rtol=0, atol=1e-5)


def test_an_old_run_validates(dialog_trainer, folder):
    code, out, err = dialog_trainer("mode=validate", "resume_model_dir=runs/half", "load_model_type=last", "split=test")
    assert code == 0, out + err
    scores = json.loads((folder / "runs/half/validation/test/response/scores.json").read_text())
    expected = json.loads((folder / "straight.json").read_text())["test"]
    assert scores["signature"].split("|data:")[0] == expected["signature"].split("|data:")[0]


def test_an_old_run_chats(dialog_trainer, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"I heard that the cat likes the sea .\n")))
    code, out, err = dialog_trainer("mode=chat", "resume_model_dir=runs/half", "load_model_type=last")
    assert code == 0, err
    assert len(out.splitlines()) == 1
