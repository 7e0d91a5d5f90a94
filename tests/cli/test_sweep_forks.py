"""Forked sweeps: the folder of a job that shares updates with another equals that of a run of its own."""

import json
import shutil
from pathlib import Path

import pytest

from dialog_trainer.cli.commands.verify_resume import compare_runs
from dialog_trainer.sweeps import runner
from dialog_trainer.sweeps.record import read_sweep
from tests.cli.test_sweep import sweep  # noqa: F401  (a fixture)
from tests.helpers.processes import run_together

pytestmark = pytest.mark.slow
STEPS = 20
SCHEDULES = (
    "{mask_schedule: step, train_user_turn_mask_step: 1}",
    "{mask_schedule: step, train_user_turn_mask_step: 0.95}",
    "{mask_schedule: random_turns, train_user_turn_mask_step: 0.25}",
    "{mask_schedule: linear, mask_schedule.start: 0.3}",
    "{mask_schedule: cosine}",
    "{mask_schedule: constant, mask_schedule.end_weight: 0}",
    "{mask_schedule: reverse_step, train_user_turn_mask_step: 0.6}",
)
OPTIONS = (
    f"steps={STEPS}",
    "validate_every_n_steps=8",
    "mask_schedule.alignment_every_n_steps=5",
    "model.dropout=0.1",
    "metrics.max_dialogues=1",
)


def files(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def test_forked_jobs_equal_straight_ones(sweep, tiny_options, tmp_path):  # noqa: F811
    code, out, err = sweep(*OPTIONS, f"sweep.list=[{','.join(SCHEDULES)}]")
    assert code == 0, out + err
    folder = tmp_path / "multirun/run"
    jobs = read_sweep(folder).jobs
    assert [job.forked_from_step for job in jobs] == [None, 19, 5, 7, 6, None, 12]
    assert {job.forked_from for job in jobs if job.forked_from} == {jobs[0].name, jobs[5].name}
    assert all((job.status, job.steps_done, job.end) == ("done", STEPS, "finished") for job in jobs)
    assert not list(folder.glob("*/branches"))
    place = [f"project='{tmp_path}/straight'", "patience=0"]
    straight = [
        [*tiny_options, *OPTIONS, *job.overrides, *place, f"name={job.name}"] for job in jobs if job.forked_from
    ]
    run_together(tmp_path, 1, [(None, None, options) for options in straight])
    for job in jobs:
        if job.forked_from:
            one, other = tmp_path / "straight" / job.name, folder / job.name
            assert compare_runs(one, other) == [], job.name
            assert files(one) == files(other), job.name
            assert configuration(one) == configuration(other), job.name


def configuration(run: Path) -> list[str]:
    """The lines of args.yaml, without those of the run itself."""
    lines = (run / "args.yaml").read_text().partition("origin:")[0].splitlines()
    return [line for line in lines if not line.startswith(("run_id:", "project:", "cache_dir:"))]


@pytest.mark.parametrize("damage", ["trainer/state.json", "metrics.jsonl", "data"])
def test_a_branch_that_cannot_be_used_is_trained_again(sweep, tmp_path, monkeypatch, jsonl_folder, damage):  # noqa: F811
    folder = tmp_path / "multirun/run"
    data = shutil.copytree(jsonl_folder, tmp_path / "data")
    start = runner.start_process

    def spoil(command, *rest):
        for path in folder.glob("001-*/branches/**/*") if "sweep.fork_from" in str(command) else ():
            if path.as_posix().endswith(damage):
                path.write_text("{}")
        if damage == "data" and "sweep.fork_from" in str(command):
            with (data / "train.jsonl").open("a") as file:
                file.write('{"turns": ["Is this new ?", "Yes , it is ."]}\n')
        return start(command, *rest)

    monkeypatch.setattr(runner, "start_process", spoil)
    code, out, err = sweep("steps=6", f"data.path='{data}'", "train_user_turn_mask_step=0.5,1")
    assert code == 0, out + err
    logs = "".join(path.read_text() for path in (folder / "logs").iterdir())
    assert "the run is trained from its start" in logs
    rows = [
        json.loads(line)
        for line in (folder / "000-train_user_turn_mask_step_0.5/metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(6))


def test_a_fork_may_differ_in_its_mask_alone(sweep, dialog_trainer, tiny_options, tmp_path, trained_run):  # noqa: F811
    assert sweep("steps=6", "seed=0", "sweep.keep_at=[3]")[0] == 0
    assert not (tmp_path / "multirun/run/000/branches").exists()  # what belongs to a job is not typed on the sweep
    options = [*tiny_options, "steps=6", "name=root", "patience=0"]
    assert dialog_trainer(*options, "train_user_turn_mask_step=1", "sweep.keep_at=[3]")[0] == 0
    fork = f"sweep.fork_from='{tmp_path}/runs/root/branches/step-00000003'"
    code, _, err = dialog_trainer(*options, fork, "name=other", "batch_size=4")
    assert code == 2
    assert "batch_size: 8 in " in err
    assert "a fork may differ in its mask schedule alone" in err
    code, out, err = dialog_trainer(*options, fork, "name=other", "train_user_turn_mask_step=0.5")
    assert code == 0, out + err
    assert "forks from" in out
