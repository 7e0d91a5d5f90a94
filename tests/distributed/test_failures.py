"""A rank fails: the job ends with one message, and the saved checkpoints are complete."""

import os
import signal
import socket

import pytest
from helpers.processes import dialog_trainer as command
from helpers.processes import forked, free_port, started, state

pytestmark = pytest.mark.slow

LONG = ("processes=2", "steps=100000", "save_every_n_steps=1", "validate_every_n_steps=99999", "model.dropout=0")


def can_resume(run, dialog_trainer, *options):
    """Whether one process resumes from the last checkpoint of a run."""
    steps = state(run)["step"] + 1
    code, out, err = dialog_trainer(
        "mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", f"steps={steps}", "processes=1", *options
    )
    assert code == 0, out + err
    return state(run)["step"] == steps


@pytest.fixture
def failing_schedule(tmp_path):
    """A learning-rate schedule that fails on rank 1 alone."""
    (tmp_path / "failing.py").write_text(
        "from dialog_trainer.distributed import collectives\n"
        "def rate(step: int, *, schedule_steps: int, warmup_steps: int) -> float:\n"
        "    if step == 3 and collectives.rank() == 1:\n"
        "        raise ValueError('no rate for this step')\n"
        "    return 1.0\n"
    )
    return ["scheduler=constant", "scheduler._target_=failing.rate", "allow_targets=[failing.rate]"]


@pytest.mark.parametrize(("size", "victim"), [(2, 0), (3, 1)])
def test_killed_rank_ends_all_with_one_message(tiny_options, tmp_path, dialog_trainer, size, victim):
    with forked([*tiny_options, *LONG, f"processes={size}"], tmp_path) as job:
        run = tmp_path / "runs/run"
        pids = job.workers(size)
        job.row(run / "metrics.jsonl", 5)
        os.kill(pids[victim], signal.SIGKILL)
        code, output = job.ended(20)
        assert code == 1
        assert output.count("was ended by SIGKILL") == 1, output
        [line] = [line for line in output.splitlines() if "SIGKILL" in line]
        assert line.startswith(f"rank {victim} of {size} was ended by SIGKILL, step "), line
        assert "mode=resume load_model_type=last" in line
        assert "Traceback" not in output
        assert output.count("Error") == 0, output
        assert job.left(1) == set()
    assert state(run)["step"] >= 4  # that of step 5 was perhaps still being written
    assert can_resume(run, dialog_trainer)


def test_hanging_rank_ends_all(tiny_options, tmp_path):
    options = [*LONG, "distributed_timeout_seconds=4"]
    with forked([*tiny_options, *options], tmp_path) as job:
        pids = job.workers(2)
        job.row(tmp_path / "runs/run/metrics.jsonl", 3)
        os.kill(pids[1], signal.SIGSTOP)
        code, output = job.ended(30)
        assert code == 1
        assert output.count("does not answer") == 1, output
        assert "rank 1 of 2 does not answer, step " in output
        assert "Traceback" not in output
        assert job.left(1) == set()


def test_error_of_a_rank_is_printed_once(tiny_options, tmp_path, failing_schedule, dialog_trainer, monkeypatch):
    with forked([*tiny_options, *LONG, *failing_schedule], tmp_path) as job:
        job.workers(2)
        code, output = job.ended()
        assert code == 1
        assert output.count("rank 1 of 2, step 3: ValueError: no rate for this step\n") == 1, output
        assert "Traceback (most recent call last)" in (tmp_path / "runs/run/logs/rank-1.log").read_text()
        assert output.count("ValueError: no rate for this step") == 1
        assert "Traceback" not in output
        assert "rank 0 of 2" not in output
        assert job.left(1) == set()
    monkeypatch.syspath_prepend(tmp_path)
    assert state(tmp_path / "runs/run")["step"] == 3
    assert can_resume(tmp_path / "runs/run", dialog_trainer, "allow_targets=[failing.rate]")


@pytest.mark.parametrize("early", [True, False], ids=["at the start", "in training"])
def test_children_end_with_their_parent(tiny_options, tmp_path, dialog_trainer, early):
    # At the start the ranks are importing.
    job = started(command(*tiny_options, *LONG), tmp_path) if early else forked([*tiny_options, *LONG], tmp_path)
    with job as job:
        job.workers(2)
        run = tmp_path / "runs/run"
        if not early:
            job.row(run / "metrics.jsonl", 5)
        job.process.kill()
        assert job.left(20) == set()
        output = job.output()
    if early:  # multiprocessing itself may print that its parent is gone
        assert not [line for line in output.splitlines() if 'File "' in line and "/dialog_trainer/" in line], output
    else:
        assert "Traceback" not in output
        assert can_resume(run, dialog_trainer)


def test_taken_port_is_named(tiny_options, dialog_trainer, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = dialog_trainer(*tiny_options, "processes=2", f"port={port}")
    assert code == 2, out + err
    assert f"port={port}: Address already in use; pass another, or port=null" in err
    assert not (tmp_path / "runs").exists()


def test_more_processes_than_sequences_of_a_batch(tiny_options, dialog_trainer, tmp_path):
    code, _, err = dialog_trainer(*tiny_options, "processes=9")
    assert code == 2
    assert "batch_size=8: 9 processes share a batch, so it must be at least 9" in err
    assert not (tmp_path / "runs").exists()


def test_data_error_is_printed_once(tiny_options, tmp_path, jsonl_folder):
    """Each rank meets the error, after a rendezvous through a port."""
    (tmp_path / "bad").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / f"bad/{split}.jsonl").write_text('{"turns": ["a", "b"]}\n{"turns": 3}\n')
    options = [*tiny_options, "processes=2", f"port={free_port()}", f"data.path='{tmp_path}/bad'"]
    with forked(options, tmp_path) as job:
        job.workers(2)
        code, output = job.ended()
        assert code == 2
        assert output.count("train.jsonl") == 1, output
        assert "Traceback" not in output
        assert job.left(1) == set()
    assert not (tmp_path / "runs").exists()
