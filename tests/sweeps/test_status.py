"""The table at the end of a sweep."""

import json

from helpers.checkpoints import state_of

from dialog_trainer.sweeps.status import build_sweep_table


def ended(folder, job, overrides, exit_code=0, best=None):
    """A job that has ended, with the best of its last checkpoint."""
    with (folder / "jobs.jsonl").open("a") as file:
        file.write(json.dumps({"job": job, "overrides": overrides, "exit_code": exit_code}) + "\n")
    if best:
        trainer = folder / str(job) / "weights/last/trainer"
        trainer.mkdir(parents=True)
        keys = ("loss", "loss_step", "score", "score_step", "bad_validations")
        state = state_of(300) | {"best": dict(zip(keys, (*best, 0), strict=True))}
        (trainer / "state.json").write_text(json.dumps(state))


def test_a_job_has_its_own_options_its_end_and_its_best(tmp_path):
    ended(tmp_path, 1, ["data=chitchat", "seed=1"], best=(4.5, 1200, None, None))
    ended(tmp_path, 0, ["data=chitchat", "seed=0"], best=(4.25, 300, 0.01234, 150))
    ended(tmp_path, 2, ["data=chitchat", "seed=2"], exit_code=1)
    found = build_sweep_table(tmp_path)
    assert found.title == f"Jobs in {tmp_path}"
    assert found.rows == [
        ["seed=0", "0", "done", "4.2500", "300", "0.0123", "150"],
        ["seed=1", "1", "done", "4.5000", "1,200", "-", "-"],
        ["seed=2", "2", "exit code 1", "-", "-", "-", "-"],
    ]


def test_one_job_shows_all_its_options(tmp_path):
    ended(tmp_path, 0, ["seed=0", "steps=3"], best=(1.0, 3, 0.0, 3))
    assert build_sweep_table(tmp_path).rows == [["seed=0 steps=3", "0", "done", "1.0000", "3", "0.0000", "3"]]
