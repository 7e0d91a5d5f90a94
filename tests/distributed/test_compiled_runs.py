"""Compiled runs in processes of their own: torch.compile depends on the process and on its cache."""

import hashlib

import pytest
from helpers.processes import dialog_trainer as command
from helpers.processes import forked, rows, started

pytestmark = pytest.mark.slow


def finish(start) -> str:
    """The output of a command that ends well."""
    with start as job:
        code, output = job.ended(200)
    assert code == 0, output
    return output


def digest(folder) -> str:
    return hashlib.sha256((folder / "weights/last/model.safetensors").read_bytes()).hexdigest()


def test_compiled_resume_is_bit_exact(tiny_options, tmp_path):
    stopped, straight = tmp_path / "runs/stopped", tmp_path / "runs/straight"
    for folder, steps in ((stopped, 3), (straight, 6)):
        own = (f"steps={steps}", f"name={folder.name}")
        options = [*tiny_options, "compile=true", "model.dropout=0.2", "schedule_steps=6", *own]
        finish(forked(options, tmp_path))
    assert digest(stopped) != digest(straight)
    # As a user starts it, and without the cache of compiled code.
    resume = command("mode=resume", f"resume_model_dir='{stopped}'", "load_model_type=last", "steps=6")
    finish(started(resume, tmp_path, PYTHONHASHSEED="", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "code")))
    assert digest(stopped) == digest(straight)


def losses(folder) -> list[float]:
    return [row["train_loss"] for row in rows(folder, "train")]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_compiled_processes_equal_an_eager_one(tmp_path, tiny_options, dialog_trainer, parallel):
    options = ("model.dropout=0", "steps=4")
    assert dialog_trainer(*tiny_options, "name=plain", *options, "compile=false")[0] == 0
    options += ("name=two", "compile=true", "processes=2", f"parallel={parallel}")
    output = finish(forked([*tiny_options, *options], tmp_path))
    assert output.count("compiled in") == 1
    assert losses(tmp_path / "runs/two") == pytest.approx(losses(tmp_path / "runs/plain"), rel=1e-5)
