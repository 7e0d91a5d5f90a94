"""Threads of a run: chosen, saved, kept."""

import pytest
import torch
import yaml

from dialog_trainer.build import threads
from dialog_trainer.build.threads import set_threads
from dialog_trainer.config.job import Job
from tests.helpers.configs import compose_config
from tests.helpers.processes import state


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine that chooses three threads."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "default_threads", lambda: 3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("asked", "mode", "changes", "number", "said"),
    [
        (None, "train", (), 3, []),
        (2, "train", (), 2, []),
        (2, "resume", (), 2, ["threads=2, as the run so far; this machine would choose 3 (threads=null)"]),
        (3, "validate", (), 3, []),
        (2, "resume", (("threads", "3", "2"),), 2, []),
        (None, "chat", (), 3, []),
    ],
)
def test_threads_are_set_and_become_a_number(asked, mode, changes, number, said):
    lines = []
    config = compose_config("model=gpt2_tiny").replace({"threads": asked, "mode": mode})
    assert set_threads(Job(config, changes), lines.append).threads == torch.get_num_threads() == number
    assert lines == said


def test_all_ranks_take_the_smallest_number(monkeypatch):
    monkeypatch.setattr(threads.collectives, "all_reduce_max", lambda own: max(own, -2.0))  # of a machine with two
    assert set_threads(Job(compose_config("model=gpt2_tiny")), print).threads == 2


def test_a_run_saves_its_threads_and_a_resume_keeps_them(dialog_trainer, tiny_options, tmp_path):
    run = tmp_path / "runs/run"
    assert dialog_trainer(*tiny_options, "threads=2", "steps=2")[0] == 0
    assert yaml.safe_load((run / "args.yaml").read_text())["threads"] == 2
    resume = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last")
    code, output, _ = dialog_trainer(*resume, "steps=3")
    assert code == 0
    assert "threads=2, as the run so far; this machine would choose 3 (threads=null)" in output
    assert state(run)["threads"] == 2
    code, output, _ = dialog_trainer(*resume, "steps=4", "threads=1")
    assert code == 0
    assert "threads: 2 -> 1" in output
    assert "with other values of threads training goes on, but not exactly" in output
    assert "threads 1 instead of 2: sums may differ in their last bits" in output
