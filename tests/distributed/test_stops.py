"""A stop request to one process of a group stops all ranks after the same step."""

import json
import os
import signal

import pytest
from helpers.processes import dialog_trainer as command
from helpers.processes import forked, lines, started, state

pytestmark = pytest.mark.slow

LONG = ("processes=2", "steps=100000", "validate_every_n_steps=99999", "model.dropout=0")


@pytest.mark.parametrize(
    ("number", "receiver", "code"), [(signal.SIGINT, "parent", 130), (signal.SIGUSR1, "rank 1", 75)]
)
def test_all_ranks_stop_after_the_same_step(tiny_options, tmp_path, dialog_trainer, number, receiver, code):
    with forked([*tiny_options, *LONG], tmp_path) as job:
        run = tmp_path / "runs/run"
        pids = job.workers(2)
        job.row(run / "metrics.jsonl", 5)
        os.kill(job.pid if receiver == "parent" else pids[1], number)
        found, output = job.ended(30)
        assert found == code, output
        assert output.count("load_model_type=last") == 1, output
        assert "Traceback" not in output
        assert job.left(1) == set()
    step = state(run)["step"]
    assert step > 5
    assert lines(run / "metrics.jsonl")[-1]["step"] == step - 1
    resumed = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", f"steps={step + 1}", "processes=1")
    found, out, err = dialog_trainer(*resumed)
    assert found == 0, out + err


@pytest.fixture
def many_replies(tmp_path, dialogue_turns):
    """Options of a slow validation; their schedule's module makes it print its progress more often."""
    folder = tmp_path / "large"
    folder.mkdir()
    for split, times in (("train", 1), ("validation", 20), ("test", 1)):
        rows = [json.dumps({"turns": turns}) + "\n" for turns in dialogue_turns * times]
        (folder / f"{split}.jsonl").write_text("".join(rows))
    (tmp_path / "verbose_progress.py").write_text(
        "from dialog_trainer.reporting import progress\n"
        "from dialog_trainer.training.learning_rate import constant as rate\n"
        "progress.FIRST_LINE_SECONDS = progress.PLAIN_EVERY_SECONDS = 0.1\n"
    )
    return [
        f"data.path='{folder}'", "metrics.max_dialogues=null", "metrics.decoding=beam", "metrics.beams=16",
        "scheduler=constant", "scheduler._target_=verbose_progress.rate", "allow_targets=[verbose_progress.rate]",
    ]  # fmt: skip


def test_stop_during_a_validation(tiny_options, tmp_path, many_replies):
    options = [*LONG, "validate_every_n_steps=2", *many_replies]
    with forked([*tiny_options, *options], tmp_path) as job:
        job.workers(2)
        run = tmp_path / "runs/run"
        job.until(lambda: "dialogues replied to" in job.output(), "replies")
        os.kill(job.pid, signal.SIGHUP)
        code, output = job.ended(30)
        assert code == 75, output
        assert "Traceback" not in output
        assert job.left(1) == set()
    assert state(run)["step"] == 2, output
    assert state(run)["validated_step"] == 0
    assert not [row for row in lines(run / "metrics.jsonl") if row["split"] == "validation"]


def test_stop_at_the_start_leaves_nothing_behind(tiny_options, tmp_path):
    with started(command(*tiny_options, *LONG), tmp_path) as job:
        job.workers(2)
        job.process.send_signal(signal.SIGTERM)
        code, output = job.ended(30)
        assert "The saved checkpoints are complete" not in output
        assert "Traceback" not in output
        assert code == 75, output
        assert output.count("interrupted before there was anything to save") == 1, output
        assert job.left(1) == set()
    assert not (tmp_path / "runs").exists()
