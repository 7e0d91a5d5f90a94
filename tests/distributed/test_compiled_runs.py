"""Runs compiled to machine code, in processes of their own: torch.compile depends on the process and on its cache."""

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


def test_a_compiled_run_equals_an_eager_one_and_its_resume_is_bit_exact(tiny_options, tmp_path, dialog_trainer):
    stopped, straight, eager = (tmp_path / "runs" / name for name in ("stopped", "straight", "eager"))
    options = [*tiny_options, "model.dropout=0.2", "schedule_steps=6"]
    for folder, steps in ((stopped, 3), (straight, 6)):
        output = finish(forked([*options, "compile=true", f"steps={steps}", f"name={folder.name}"], tmp_path))
        assert output.count("compiled in") == 1
    assert digest(stopped) != digest(straight)
    # As a user starts it, and without the cache of compiled code.
    resume = command("mode=resume", f"resume_model_dir='{stopped}'", "load_model_type=last", "steps=6")
    finish(started(resume, tmp_path, PYTHONHASHSEED="", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "code")))
    assert digest(stopped) == digest(straight)
    assert dialog_trainer(*options, "compile=false", "steps=6", "name=eager")[0] == 0
    for row, other in zip(rows(straight, "train"), rows(eager, "train"), strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
