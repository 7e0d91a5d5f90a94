"""The table at the end of a sweep."""

import json

from helpers.checkpoints import state_of

from dialog_trainer.sweeps.record import JobRecord
from dialog_trainer.sweeps.status import build_sweep_table
from tests.sweeps.test_record import RECORD


def job(folder, index, best=None, **fields):
    """A job, with the best of its last checkpoint."""
    found = JobRecord(index=index, name=f"00{index}", digest=f"{index}" * 16, steps=300, **fields)
    if best:
        trainer = folder / found.name / "weights/last/trainer"
        trainer.mkdir(parents=True)
        keys = ("loss", "loss_step", "score", "score_step", "bad_validations")
        state = state_of(300) | {"best": dict(zip(keys, (*best, 0), strict=True))}
        (trainer / "state.json").write_text(json.dumps(state))
    return found


def test_a_job_has_its_own_options_its_end_and_its_best(tmp_path):
    jobs = (
        job(tmp_path, 0, (4.25, 300, 0.01234, 150), overrides=("seed=0",), status="done", steps_done=300, end="finished"),
        job(tmp_path, 1, (4.5, 1200, None, None), overrides=("seed=1",), status="done", steps_done=1216, end="stopped early"),
        job(tmp_path, 2, overrides=("seed=2", "steps=3"), status="failed", steps_done=7),
        job(tmp_path, 3, overrides=()),
    )  # fmt: skip
    found = build_sweep_table(tmp_path, RECORD.model_copy(update={"jobs": jobs}))
    assert found.title == f"Jobs in {tmp_path}"
    assert found.rows == [
        ["seed=0", "0", "finished", "300", "4.2500", "300", "0.0123", "150"],
        ["seed=1", "1", "stopped early", "1,216", "4.5000", "1,200", "-", "-"],
        ["seed=2 steps=3", "2", "failed", "7", "-", "-", "-", "-"],
        ["-", "3", "waiting", "0", "-", "-", "-", "-"],
    ]
