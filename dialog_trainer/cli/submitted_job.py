"""One submitted job of a sweep, where it runs: `python -m dialog_trainer.cli.submitted_job <sweep> <submission> <index>`.

It chooses how to start as a local sweep does, trains in this process, so that each signal of Slurm arrives once, and records
how that ended. A run that was stopped before its end is started once more by Slurm, unless it made no progress.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dialog_trainer.cli import main
from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import open_to_append
from dialog_trainer.screen import write_line
from dialog_trainer.sweeps.attempt import choose_start, log_of, record_end
from dialog_trainer.sweeps.job_folder import read_position
from dialog_trainer.sweeps.queues import own_name, requeue
from dialog_trainer.sweeps.record import JobRecord
from dialog_trainer.sweeps.submitted import Task, read_attempt, read_task, write_attempt

PREEMPTED = 75


def entry() -> None:
    """Runs the job, and ends the process with its exit code."""
    since = time.monotonic()
    sweep, number, index = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    task = read_task(sweep, number, index)
    job = read_attempt(sweep, task.job.model_copy(update={"submission": own_name()}))
    before = _count_saved(sweep, job)
    with open_to_append(sweep, log_of(job)) as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    code, job = _train(sweep, task, job)
    job = record_end(sweep, job, code, time.monotonic() - since)
    write_attempt(sweep, job)
    if code == PREEMPTED and job.submission and _count_saved(sweep, job) > before:
        requeue(job.submission)
    sys.exit(code)


def _train(sweep: Path, task: Task, job: JobRecord) -> tuple[int, JobRecord]:
    try:
        start, job = choose_start(sweep, job, (), write_line)
    except CheckpointError as error:
        write_line(str(error))
        return error.exit_code, job
    write_attempt(sweep, job)
    options = task.resume if start.resumes else (start.fork_from and task.fork) or task.start
    sys.argv = ["dialog_trainer", *options]
    try:
        return main.run_process(), job
    except Exception as error:
        main.report_unexpected(error)
        return 1, job


def _count_saved(sweep: Path, job: JobRecord) -> int:
    """The updates that its last checkpoint has."""
    position = read_position(sweep / job.name)
    return position.steps_done if position else 0


if __name__ == "__main__":
    entry()
