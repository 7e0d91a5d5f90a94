"""Sweeps whose jobs are submitted: by submitit on this machine, and to a Slurm that only notes what it is asked."""

import os
import re
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dialog_trainer.cli import submitted_job
from dialog_trainer.sweeps.record import JobRecord, read_sweep
from dialog_trainer.sweeps.submitted import read_current
from tests.helpers.processes import SERVER, rows, run_forked, state

pytestmark = [
    pytest.mark.slow,
    # The processes of submitit outlive the command that started them.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]
SLURM = {
    "sbatch": 'n=$(ls scripts | wc -l); cp "$1" "scripts/$n"; echo "Submitted batch job $n"',
    "squeue": 'case "$*" in *--jobs=*) cat state;; *) cat queue;; esac',
    "scontrol": 'echo "$@" >> asked',
    "srun": "exit 1",
}


@pytest.fixture
def submit(dialog_trainer, tiny_options, tmp_path, monkeypatch):
    """`submit(launcher, *options)`: a sweep of tiny jobs in `multirun/run`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr("dialog_trainer.cli.sweep.write_report", lambda *_: print("report"))
    options = [option for option in tiny_options if not option.startswith("project=")]
    return lambda launcher, *more: dialog_trainer(*options, "-m", f"hydra/launcher={launcher}", *more)


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def jobs_in(tmp_path: Path) -> tuple[JobRecord, ...]:
    return read_current(tmp_path / "multirun/run").jobs


def test_jobs_here_outlive_the_command_and_are_completed(submit, tmp_path):
    """Job 0 fails before its first checkpoint; job 1 is killed in the middle."""
    options = ("optim=sgd", "max_grad_norm=null", "scheduler.warmup_steps=0", "optim.lr0=1e30,0.1")
    options = (*options, "steps=40", "validate_every_n_steps=4", "metrics.max_dialogues=1")
    folder = tmp_path / "multirun/run"
    code, out, err = submit("submitit_local", *options)
    assert code == 0, out + err
    assert "started here: 2 jobs" in out
    assert "python -m dialog_trainer mode=report runs=multirun/run" in out
    assert [job.status for job in read_sweep(folder).jobs] == ["queued", "queued"]
    code, out, _ = submit("submitit_local", *options)
    assert code == 0
    assert "2 jobs, 2 of them submitted" in out
    until((folder / "001-optim.lr0_0.1/weights/step-00000004").exists, "a checkpoint")
    for process in processes_of("001-optim.lr0_0.1", folder):
        os.kill(process, signal.SIGKILL)
    until(lambda: not any(job.submission for job in jobs_in(tmp_path)), "the end of both")
    first, second = jobs_in(tmp_path)
    assert (first.status, first.exit_code, first.attempts) == ("failed", 1, 1)
    assert "is not finite; nothing was updated" in (first.error or "")
    assert (second.status, second.attempts) == ("failed", 1)
    assert (second.error or "").startswith("ended without an exit code, as if killed: ")
    code, out, err = submit("submitit_local", *options)
    assert code == 0, out + err
    assert "is not finite; nothing was updated" in out
    until(lambda: not any(job.submission for job in jobs_in(tmp_path)), "the end of both")
    first, second = jobs_in(tmp_path)
    assert (first.status, first.attempts, second.status, second.attempts) == ("failed", 2, "done", 2)
    assert (second.exit_code, second.end, second.steps_done) == (0, "finished", 40)
    assert sorted({row["step"] for row in rows(folder / second.name, "train")}) == list(range(40))


def processes_of(name: str, folder: Path) -> list[int]:
    """The process that trains the job: it is in the file of the job, as submitit's, whose child it is."""
    [job] = [job for job in jobs_in(folder.parents[1]) if job.name == name]
    parent = (job.submission or "").rpartition(":")[2]
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A folder with the programs of Slurm, which note what they are asked there."""
    place = tmp_path / "slurm"
    (place / "scripts").mkdir(parents=True)
    for name in ("queue", "state", "asked"):
        (place / name).touch()
    for name, body in SLURM.items():
        program = place / name
        program.write_text(f"#!/bin/sh\ncd '{place}'\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


def test_one_array_of_commands_is_submitted_once(submit, slurm, tmp_path):
    options = ("steps=2", "precision=fp32", "seed=0,1", "hydra.launcher.partition=gpu", "hydra.launcher.mem_gb=1.5")
    options = (
        *options,
        "hydra.launcher.additional_parameters={reservation: night}",
        "hydra.launcher.setup=[module load x]",
    )
    code, out, err = submit("submitit_slurm", *options)
    assert code == 0, out + err
    assert "submitted to Slurm: 2 jobs as array 0" in out
    script = (slurm / "scripts/0").read_text()
    flags = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))
    assert (flags["array"], flags["partition"], flags["mem"], flags["time"]) == ("0-1%2", "gpu", "1536M", "60")
    assert (flags["reservation"], flags["requeue"], flags["signal"]) == ("night", "", "USR2@90")
    assert "\nmodule load x\n" in script
    assert re.search(r"^srun .*--cpus-per-task=1 env PYTHONHASHSEED=\S+ \S*python\S* .*-m dialog_trainer.cli.submitted_job multirun/run 0 \$SLURM_ARRAY_TASK_ID$", script, re.MULTILINE)  # fmt: skip
    assert [job.status for job in jobs_in(tmp_path)] == ["stopped", "stopped"]  # the queue is empty
    (slurm / "queue").write_text("0_0\n0_1\n7_3\n")
    assert [job.status for job in jobs_in(tmp_path)] == ["queued", "queued"]
    code, out, _ = submit("submitit_slurm", *options)
    assert (code, len(list((slurm / "scripts").iterdir()))) == (0, 1)
    assert "2 jobs, 2 of them submitted" in out
    code, _, err = submit("local", "steps=2", "precision=fp32", "seed=0,1")
    assert code == 2
    assert "jobs of this sweep wait or run as slurm:0_0, slurm:0_1" in err
    (slurm / "queue").write_text("0_0\n")
    (tmp_path / "multirun/run/submitted/0_1_0_log.err").write_text("line 9: module: command not found\n")
    assert [(job.status, job.error) for job in jobs_in(tmp_path)] == [
        ("queued", None),
        ("failed", "ended before it started: line 9: module: command not found"),
    ]
    code, out, _ = submit("submitit_slurm", *options)
    assert code == 0
    assert "submitted to Slurm: 1 job as array 1" in out


def test_forks_wait_for_their_root(submit, slurm, tmp_path):
    code, out, err = submit("submitit_slurm", "steps=40", "precision=fp32", "train_user_turn_mask_step=0,0.25,0.5,1")
    assert code == 0, out + err
    first, second = ((slurm / "scripts" / name).read_text() for name in ("0", "1"))
    assert "--array=0-1%2" in first
    assert "--array=0-1%2" in second
    assert "dependency" not in first
    assert "#SBATCH --dependency=afterok:0_1\n" in second
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in second
    code, out, _ = submit(
        "submitit_local", "name=here", "steps=40", "train_user_turn_mask_step=0.5,1", "sweep.dry_run=true"
    )
    assert code == 0
    assert "no forks with hydra/launcher=submitit_local: 1 jobs train what they could share" in out


def run_array_task(arguments: list[str]) -> None:
    submitted_job.sys.argv = ["submitted_job", *arguments]
    submitted_job.entry()


def test_a_preempted_job_goes_on_and_a_cancelled_one_does_not(submit, slurm, tmp_path):
    assert (
        submit("submitit_slurm", "steps=100000", "precision=fp32", "validate_every_n_steps=50000", "seed=0,1")[0] == 0
    )
    run = tmp_path / "multirun/run/001-seed_1"
    (slurm / "queue").write_text("0_0\n0_1\n")

    def start_and_stop(number: signal.Signals, after: int) -> int | None:
        environ = {name: os.environ[name] for name in ("XDG_CACHE_HOME", "PATH")}
        environ |= {"SLURM_ARRAY_JOB_ID": "0", "SLURM_ARRAY_TASK_ID": "1"}
        arguments = (["multirun/run", "0", "1"],)
        process = SERVER.Process(
            target=run_forked, args=(run_array_task, arguments, tmp_path, tmp_path / "log", environ)
        )
        process.start()
        metrics = run / "metrics.jsonl"
        until(lambda: metrics.exists() and re.search(rf'"step": {after},', metrics.read_text()), "a step")
        os.kill(process.pid or 0, number)
        process.join(60)
        return process.exitcode

    (slurm / "state").write_text("RUNNING\n")
    assert start_and_stop(signal.SIGUSR2, 3) == 75
    assert (slurm / "asked").read_text() == "requeue 0_1\n"
    stopped = state(run)["step"]
    assert (jobs_in(tmp_path)[1].status, jobs_in(tmp_path)[1].submission) == ("queued", "slurm:0_1")
    (slurm / "state").write_text("COMPLETING\n")
    assert start_and_stop(signal.SIGTERM, stopped + 3) == 75
    assert (slurm / "asked").read_text() == "requeue 0_1\n"
    (slurm / "queue").write_text("")
    job = jobs_in(tmp_path)[1]
    assert (job.status, job.attempts, job.submission) == ("stopped", 2, None)
    assert job.steps_done == state(run)["step"] > stopped
    assert [row["step"] for row in rows(run, "train")] == list(range(job.steps_done))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["precision=auto"], "precision=auto: the jobs of an array start at a time"),
        (["precision=fp32", "hydra.launcher.timeout_min=0"], "hydra.launcher.timeout_min=0: must be a whole number of at least 1"),
        (["precision=fp32", "hydra.launcher.additional_parameters={a: [1]}"], "must be a dict of options of sbatch"),
        (["precision=fp32", "device=[0,1]"], "device=[0, 1]: needs hydra.launcher.gpus_per_node=2; it is 0"),
        (["precision=fp32", "sweep.max_hours=1"], "sweep.max_hours=1: not with hydra/launcher=submitit_slurm"),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted_is_named(submit, slurm, options, message):
    code, _, err = submit("submitit_slurm", "steps=2", *options)
    assert code == 2
    assert message in err


def test_the_words_of_sbatch_are_shown(submit, slurm, tmp_path):
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
    options = ("steps=2", "precision=fp32", "seed=0,1")
    code, _, err = submit("submitit_slurm", *options)
    assert code == 2
    assert "hydra/launcher=submitit_slurm: sbatch: error: invalid partition specified: x" in err
    assert [job.status for job in jobs_in(tmp_path)] == ["waiting", "waiting"]
    (slurm / "srun").unlink()
