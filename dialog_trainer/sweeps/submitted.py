"""What submitted jobs leave below the sweep, and the record with it. Each file has one writer:

sweep.json                   the command that submits; each job in it as it was when that command returned
submitted/array-<n>.json     the same: the command lines of the jobs of one submission, in order
submitted/<job>.json         the job itself: its record at the start and at the end of each attempt
submitted/*_log.out, .err    submitit: what was printed before the job's own log was open, and the words of Slurm
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import list_directory, make_directory, read_bounded, write_atomically
from dialog_trainer.sweeps.attempt import log_of
from dialog_trainer.sweeps.job_folder import StepCounter
from dialog_trainer.sweeps.processes import last_line
from dialog_trainer.sweeps.queues import find_live, log_name
from dialog_trainer.sweeps.record import MAX_BYTES, JobRecord, PlainRecord, SweepRecord, read_sweep

FOLDER = "submitted"


class Task(PlainRecord):
    """A job as it is submitted: its record, and the options of its command line for each `Start` that it may have."""

    job: JobRecord
    start: tuple[str, ...]
    resume: tuple[str, ...]
    fork: tuple[str, ...] | None


class Submission(PlainRecord):
    tasks: tuple[Task, ...]


def write_submission(sweep: Path, submission: Submission) -> int:
    """Returns its number."""
    make_directory(sweep, FOLDER)
    number = sum(name.startswith("array-") for name in list_directory(sweep, FOLDER))
    write_atomically(sweep, f"{FOLDER}/array-{number}.json", submission.model_dump_json(indent=1) + "\n")
    return number


def read_task(sweep: Path, number: int, index: int) -> Task:
    return Submission.model_validate_json(read_bounded(sweep, f"{FOLDER}/array-{number}.json", MAX_BYTES)).tasks[index]


def write_attempt(sweep: Path, job: JobRecord) -> None:
    write_atomically(sweep, f"{FOLDER}/{job.name}.json", job.model_dump_json(indent=1) + "\n")


def read_attempt(sweep: Path, job: JobRecord) -> JobRecord:
    """What the job has written since it was submitted; the given record where it has not."""
    path = f"{FOLDER}/{job.name}.json"
    try:
        written = JobRecord.model_validate_json(read_bounded(sweep, path, MAX_BYTES))
    except FileNotFoundError:
        return job
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{sweep / path} cannot be read: {error}") from None
    return written if written.submission == job.submission else job


def read_current(sweep: Path) -> SweepRecord:
    """The record of a sweep with what its submitted jobs have written since. A job keeps its `submission` while it is queued
    or runs, or where the queue cannot be seen. Raises `CheckpointError`."""
    record = read_sweep(sweep)
    submitted = {job.submission for job in record.jobs if job.submission}
    if not submitted:
        return record
    live = find_live(submitted)
    return record.with_jobs(_find_state(sweep, job, submitted if live is None else live) for job in record.jobs)


def _find_state(sweep: Path, job: JobRecord, live: Collection[str | None]) -> JobRecord:
    if job.submission is None:
        return job
    job = read_attempt(sweep, job)
    if job.status in ("done", "failed"):
        return job.model_copy(update={"submission": None})
    if job.submission in live:
        # One that was stopped, and is still there, is about to be started again.
        found = {"status": "running" if job.status == "running" else "queued"}
        return job.model_copy(update={**found, "steps_done": StepCounter(sweep / job.name, job.steps_done).count()})
    gone = {} if job.status == "stopped" else _describe_loss(sweep, job)
    return job.model_copy(update={**gone, "submission": None})


def _describe_loss(sweep: Path, job: JobRecord) -> dict[str, str | None]:
    """The status of a job that is gone without a record of its end."""
    log = f"{FOLDER}/{log_name(job.submission or '')}.err"
    if job.status == "running":
        how, words = "ended without an exit code, as if killed", last_line(sweep, log) or last_line(sweep, log_of(job))
    elif (sweep / log).exists():
        how, words = "ended before it started", last_line(sweep, log)
    else:  # cancelled in the queue, or the job that it waited for has failed
        return {"status": "stopped", "error": None}
    return {"status": "failed", "error": f"{how}: {words or 'without a word'}"}
