"""Compiled runs, each in a process of its own: torch.compile depends on the process and on its cache."""

import hashlib

import pytest
from helpers.processes import dialog_trainer as command
from helpers.processes import rows, started

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tiny_options, tmp_path, tmp_path_factory):
    """`run(name, *options, code=...)` starts a run of that name, or the mode that `options` name. Runs with the same
    `code` share a cache of compiled code."""

    def begin(name: str, *options: str, code: str = "shared") -> str:
        begins = () if any(option.startswith("mode=") for option in options) else (*tiny_options, f"name={name}")
        cache = tmp_path_factory.getbasetemp() / f"code-{code}"
        environ = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONHASHSEED": ""}
        with started(command(*begins, *options), tmp_path, **environ) as job:
            exit_code, output = job.ended(200)
        assert exit_code == 0, output
        return output

    return begin


def losses(folder) -> list[float]:
    return [row["train_loss"] for row in rows(folder, "train")]


def test_compiled_resume_is_bit_exact(run, tmp_path):
    options = ("compile=true", "model.dropout=0.2", "schedule_steps=6")
    assert "compiled in" in run("straight", *options, "steps=6")
    run("stopped", *options, "steps=3")
    saved = f"resume_model_dir='{tmp_path}/runs/stopped'"
    run("stopped", "mode=resume", saved, "load_model_type=last", "steps=6", code="own")
    digests = [
        hashlib.sha256((tmp_path / "runs" / name / "weights/last/model.safetensors").read_bytes()).hexdigest()
        for name in ("straight", "stopped")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_compiled_processes_equal_an_eager_one(run, tmp_path, tiny_options, dialog_trainer, parallel):
    options = ("model.dropout=0", "steps=4")
    assert dialog_trainer(*tiny_options, "name=plain", *options, "compile=false")[0] == 0
    assert run("two", *options, "compile=true", "processes=2", f"parallel={parallel}").count("compiled in") == 1
    assert losses(tmp_path / "runs/two") == pytest.approx(losses(tmp_path / "runs/plain"), rel=1e-5)
