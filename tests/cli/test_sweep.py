"""Sweeps: a record that is always current, and the same command again goes on."""

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from dialog_trainer.sweeps.record import read_sweep
from dialog_trainer.tracking.run_directory import lock_run_directory
from tests.helpers.processes import dialog_trainer as command_line
from tests.helpers.processes import rows, started, state
from tests.helpers.sweeps import start_forked

pytestmark = pytest.mark.slow


class Ended:
    """A process that has ended."""

    def __init__(self, code: int):
        self.code = code

    def poll(self) -> int:
        return self.code


def report_at_once(command, folder, log, environment) -> Ended:
    """In place of a report, which takes as long as a tiny sweep."""
    assert command[-3:] == ["mode=report", f"runs='{folder}'", "figures.enabled=false"]  # as of the jobs
    (folder / log).write_text("scipy is not installed\n")
    return Ended(1)


@pytest.fixture
def sweep(dialog_trainer, tiny_options, tmp_path, monkeypatch):
    """`sweep(*options)`: a sweep of tiny jobs in `multirun/run`, whose processes are forked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dialog_trainer.sweeps.runner.start_process", start_forked)
    monkeypatch.setattr("dialog_trainer.cli.sweep.start_process", report_at_once)
    options = [option for option in tiny_options if not option.startswith("project=")]
    return lambda *more: dialog_trainer(*options, "-m", *more)


def statuses(folder: Path) -> list[tuple[str, int, str | None]]:
    return [(job.status, job.steps_done, job.end) for job in read_sweep(folder).jobs]


def test_jobs_are_recorded_and_the_same_command_does_nothing(sweep, tmp_path):
    code, out, err = sweep("steps=2", "train_user_turn_mask_step=0,1", "seed=3")
    assert code == 0, out + err
    folder = tmp_path / "multirun/run"
    record = read_sweep(folder)
    assert [job.name for job in record.jobs] == ["000-train_user_turn_mask_step_0", "001-train_user_turn_mask_step_1"]
    assert record.swept == ("train_user_turn_mask_step",)
    assert "seed=3" in record.overrides
    assert (record.settings["seed"], record.settings["patience"]) == (3, 0)
    for job, weight in zip(record.jobs, (0, 1), strict=True):
        assert (job.status, job.exit_code, job.steps_done, job.end, job.attempts) == ("done", 0, 2, "finished", 1)
        assert job.tokens > 0 < job.seconds
        assert {row["user_weight"] for row in rows(folder / job.name, "train")} == {weight}
        saved = (folder / job.name / "args.yaml").read_text()
        assert f"project: multirun/run\nname: {job.name}\n" in saved
    assert "2 jobs, 2 runs' worth of steps" in out
    assert "early stopping is off (patience=0)" in out
    assert "for all jobs, as 000-train_user_turn_mask_step_0: threads=1" in out
    notes = "notes of 000-train_user_turn_mask_step_0; of later jobs only new ones follow:\n  "
    assert (out.count(notes), out.count("new notes of"), out.count("\n  train: ")) == (1, 0, 2)
    assert out.endswith("note: no report: scipy is not installed\n")
    title, head, *table = out.splitlines()[-6:-2]
    assert (title, head.split("  ")[0]) == ("Jobs in multirun/run", "options")
    assert [row.split()[:4] for row in table] == [[f"train_user_turn_mask_step={i}", str(i), "finished", "2"] for i in (0, 1)]  # fmt: skip
    code, out, _ = sweep("steps=2", "train_user_turn_mask_step=0,1", "seed=3")
    assert code == 0
    assert "all of them done" in out
    assert read_sweep(folder).jobs == record.jobs


def test_failed_and_killed_jobs_are_completed_and_the_sweep_extended(sweep, tmp_path, monkeypatch):
    """Job 0 trains, job 1 fails before its first step, job 2 is killed in the middle."""
    folder = tmp_path / "multirun/run"
    forbidden = folder / "001-seed_1"

    def start(command, *rest):
        process = start_forked(command, *rest)
        if "name=002-seed_2" in command:
            threading.Thread(target=kill_at, args=(folder / "002-seed_2", process), daemon=True).start()
        if "name=001-seed_1" in command and not (folder / "seen").exists():
            (folder / "seen").touch()
            process.send_signal(signal.SIGKILL)
        return process

    def kill_at(run, process):
        while not (run / "weights/step-00000004").exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)

    monkeypatch.setattr("dialog_trainer.sweeps.runner.start_process", start)
    options = ("steps=16", "validate_every_n_steps=4", "metrics.max_dialogues=1")
    code, out, err = sweep(*options, "seed=0,1,2")
    assert code == 1, out + err
    failed = read_sweep(folder).jobs
    assert [job.status for job in failed] == ["done", "failed", "failed"]
    assert [job.error for job in failed[1:]] == ["was ended by SIGKILL"] * 2
    assert not forbidden.exists()
    assert state(folder / "002-seed_2")["step"] in (4, 8, 12)
    code, out, err = sweep(*options, "seed=0,1,2,3")
    assert code == 0, out + err
    assert statuses(folder) == [("done", 16, "finished")] * 4
    assert "002-seed_2 goes on at step " in out
    assert [job.attempts for job in read_sweep(folder).jobs] == [1, 2, 2, 1]
    assert sorted(path.name for path in folder.iterdir()) == [
        "000-seed_0", "001-seed_1", "002-seed_2", "003-seed_3", "logs", "seen", "sweep.json",
    ]  # fmt: skip


def test_a_job_without_a_checkpoint_is_put_aside(sweep, tmp_path):
    """A learning rate that overflows at once."""
    folder = tmp_path / "multirun/run"
    options = ("steps=6", "optim=sgd", "max_grad_norm=null", "scheduler.warmup_steps=0")
    for attempt in (1, 2):
        code, out, _ = sweep(*options, "optim.lr0=1e30,0.1")
        assert code == 1, out
        jobs = read_sweep(folder).jobs
        assert [(job.status, job.attempts) for job in jobs] == [("failed", attempt), ("done", 1)]
        assert "is not finite; nothing was updated" in jobs[0].error
    assert (folder / "failed/000-optim.lr0_1e+30-1/crash").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("steps=2", "seed=0,0"), "jobs 0 and 1 would be the same run (overrides of their own: none)"),
        (("steps=2", "seed=0", "name=a,b"), "name: is where the sweep lies"),
        (("steps=2", "seed=0", "hydra.launcher.n_jobs=0"), "hydra.launcher.n_jobs=0: must be a whole number of at least 1"),
        (("steps=2", "sweep.list=[{seed: 1}, {sed: 2}]"), "sed=2: there is no option sed"),
        (("steps=2", "sweep.fork=true", "sweep.early_stopping=true", "seed=0"), "sweep.fork=true: not with"),
        (("hydra/launcher=joblib",), "hydra/launcher=joblib: is not used here"),
        (("hydra/sweeper=optuna",), "hydra/sweeper=optuna: is not used here"),
        (("mode=inspect", "seed=0,1"), "mode=inspect: -m is for mode=train"),
    ],
)  # fmt: skip
def test_what_is_no_sweep_is_refused(sweep, options, message):
    code, _, err = sweep(*options)
    assert code == 2
    assert message in err


@pytest.fixture
def planned(sweep, tmp_path, monkeypatch):
    """A sweep with the record of a job that was killed before it made its folder."""

    monkeypatch.setattr("dialog_trainer.sweeps.runner.start_process", lambda *_: Ended(-9))
    assert sweep("steps=2", "seed=0")[0] == 1
    return sweep


def test_folders_changed_by_hand_are_named(planned, tmp_path):
    folder = tmp_path / "multirun/run"
    code, _, err = planned("steps=3", "seed=0")
    assert code == 2
    assert "steps: 2 in this sweep -> 3: it is the same for all its jobs; sweep over it (steps=2,3)" in err
    (folder / "001-seed_1").mkdir()
    code, _, err = planned("steps=2", "seed=0,1")
    assert code == 2
    assert "multirun/run/001-seed_1: is in the way of a new job" in err
    (folder / "001-seed_1").rename(tmp_path / "elsewhere")
    (folder / "000").symlink_to(tmp_path / "elsewhere")
    code, _, err = planned("steps=2", "seed=0")
    assert code == 2
    assert "multirun/run/000: is a link, and inside a sweep none is followed" in err
    (folder / "000").unlink()
    with ExitStack() as stack:
        stack.enter_context(lock_run_directory(folder))
        code, _, err = planned("steps=2", "seed=0")
    assert code == 2
    assert "multirun/run is in use by another process" in err
    (tmp_path / "multirun/other").mkdir()
    (tmp_path / "multirun/other/jobs.jsonl").touch()
    code, _, err = planned("name=other", "seed=0")
    assert code == 2
    assert "multirun/other: is there, and is no sweep of this version (no sweep.json)" in err


def test_another_args_yaml_is_named(sweep, tmp_path):
    assert sweep("steps=2", "seed=0")[0] == 0
    with (tmp_path / "multirun/run/000/args.yaml").open("a") as file:
        file.write("# edited\n")
    code, _, err = sweep("steps=2", "seed=0")
    assert code == 2
    assert "multirun/run/000: its args.yaml is another one than the sweep left" in err


def test_dry_run_writes_nothing(sweep, tmp_path):
    code, out, _ = sweep("sweep.dry_run=true", "train_user_turn_mask_step=0,0.25,0.5,0.75,1", "steps=40")
    assert code == 0
    assert "5 jobs, 3.5 runs' worth of steps" in out
    assert out.count("\n  data: DailyDialog data.path=") == 1
    assert "001-train_user_turn_mask_step_0.25: waiting, 40 steps, forks from 004-train_user_turn_mask_step_1 at step 10" in out  # fmt: skip
    assert not (tmp_path / "multirun").exists()


def has_rows(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def test_a_stop_ends_all_jobs_with_checkpoints(sweep, tmp_path):
    folder = tmp_path / "multirun/run"

    def stop():
        while not all(has_rows(folder / f"00{i}-seed_{i}/metrics.jsonl") for i in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    code, out, err = sweep("steps=3000", "seed=0,1,2", "hydra.launcher.n_jobs=2")
    assert code == 130, out + err
    assert [job.status for job in read_sweep(folder).jobs] == ["stopped", "stopped", "waiting"]
    for job in read_sweep(folder).jobs[:2]:
        assert 0 < job.steps_done == state(folder / job.name)["step"] < 3000


def test_no_job_outlives_a_killed_sweep(tiny_options, tmp_path):
    """Processes as a user starts them."""
    options = [option for option in tiny_options if not option.startswith("project=")]
    run = tmp_path / "multirun/run/000-seed_0"
    with started(command_line(*options, "-m", "steps=100000", "seed=0,1"), tmp_path) as command:
        command.row(run / "metrics.jsonl", 2)
        jobs = command.workers(1)
        command.process.send_signal(signal.SIGKILL)
        assert command.left(20) == set()
    assert jobs
    assert state(run)["step"] > 2
    assert read_sweep(run.parent).jobs[0].status == "running"


def test_max_hours(sweep, tmp_path):
    code, out, err = sweep("steps=3000", "seed=0,1", "sweep.max_hours=1e-3")
    assert code == 75, out + err
    assert "sweep.max_hours is over" in out
    assert [job.status for job in read_sweep(tmp_path / "multirun/run").jobs] == ["stopped", "waiting"]
