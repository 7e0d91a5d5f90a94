"""Compiled runs, each in a process of its own as people start them, and compiled anew by each."""

import hashlib

import pytest
from many import dialog_trainer as command
from many import rows, started

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tiny_options, tmp_path):
    """`run(name, *options)`: a run of that name, or what is asked of one, in code that no other run has made."""

    def begin(name: str, *options: str) -> str:
        begins = () if any(option.startswith("mode=") for option in options) else (*tiny_options, f"name={name}")
        cache = tmp_path / f"code-{len(list(tmp_path.glob('code-*')))}"
        environ = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONHASHSEED": ""}
        with started(command(*begins, *options), tmp_path, cache.name, **environ) as job:
            code, output = job.ended(200)
        assert code == 0, output
        return output

    return begin


def losses(folder) -> list[float]:
    return [row["train_loss"] for row in rows(folder, "train")]


def test_stopped_and_resumed_equals_straight(run, tmp_path):
    options = ("compile=true", "model.dropout=0.2", "schedule_steps=6")
    assert "compiled in" in run("straight", *options, "steps=6")
    run("stopped", *options, "steps=3")
    run("stopped", "mode=resume", f"resume_model_dir='{tmp_path}/runs/stopped'", "load_model_type=last", "steps=6")
    digests = [
        hashlib.sha256((tmp_path / "runs" / name / "weights/last/model.safetensors").read_bytes()).hexdigest()
        for name in ("straight", "stopped")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_give_what_a_plain_one_gives(run, tmp_path, parallel):
    options = ("model.dropout=0", "steps=4")
    run("plain", *options, "compile=false")
    assert run("two", *options, "compile=true", "processes=2", f"parallel={parallel}").count("compiled in") == 1
    assert losses(tmp_path / "runs/two") == pytest.approx(losses(tmp_path / "runs/plain"), rel=1e-5)
