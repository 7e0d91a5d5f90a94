"""One attempt at a job of a sweep: how it starts, by what is found in its folder, and what is recorded of its end.

nothing                      it starts, or forks from a branch of another job
a checkpoint, not the end    it goes on from there (mode=resume), bit for bit
files, no checkpoint         the folder is moved to failed/, and it starts once more
done                         nothing
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dialog_trainer.signals import EXIT_CODES
from dialog_trainer.sweeps.forks import branch_of
from dialog_trainer.sweeps.job_folder import can_resume, digest_config, put_aside, read_position, wait_until_left
from dialog_trainer.sweeps.processes import describe_exit
from dialog_trainer.sweeps.record import JobRecord
from dialog_trainer.types import Say

STOPPED = tuple(set(EXIT_CODES.values()))


@dataclass(frozen=True, slots=True)
class Start:
    """How a job is started: from its last checkpoint, from a branch of another job, or from nothing; and the updates after
    which it keeps branches for others."""

    resumes: bool = False
    fork_from: Path | None = None
    keep_at: tuple[int, ...] = ()


def choose_start(sweep: Path, job: JobRecord, keep_at: tuple[int, ...], say: Say) -> tuple[Start, JobRecord]:
    """How the job starts now, and its record as the attempt begins. Raises `CheckpointError` where another process trains
    the run, and does not stop."""
    run = sweep / job.name
    resumes, branch = False, branch_of(sweep, job)
    if os.path.lexists(run):
        wait_until_left(run)
        resumes = can_resume(run)
        if not resumes:
            place = put_aside(sweep, job.name, job.attempts)
            say(f"{job.name} has no checkpoint: moved to {sweep / place}")
    fork = {}
    if job.forked_from and not resumes and branch is None:
        say(f"{job.name} is trained from its start: {job.forked_from} has left no branch for it")
        fork = {"forked_from": None, "forked_from_step": None}
    job = job.model_copy(update=fork)
    begun = {
        "status": "running",
        "attempts": job.attempts + 1,
        "exit_code": None,
        "error": None,
        "steps_done": job.steps_done if resumes else job.forked_from_step or 0,
    }
    return Start(resumes, None if resumes else branch, keep_at), job.model_copy(update=begun)


def record_end(sweep: Path, job: JobRecord, code: int, seconds: float, stopping: bool = False) -> JobRecord:
    """The record of a job whose attempt ended with this exit code after so many seconds, and whose `steps_done` were counted
    so far. `stopping`: it was sent a stop signal, so that one that ended it is no failure."""
    run = sweep / job.name
    position = read_position(run)
    stopped = code in STOPPED or (code < 0 and stopping)
    ended = {
        "status": "done" if code == 0 else "stopped" if stopped else "failed",
        "exit_code": code,
        "error": None if code == 0 or stopped else describe_exit(code, sweep, log_of(job)),
        "steps_done": position.steps_done if position else job.steps_done,
        "steps": position.steps if position else job.steps,
        "end": None if code else "finished" if position is None or position.ended else "stopped early",
        "seconds": round(job.seconds + seconds, 3),
        "tokens": position.tokens if position else job.tokens,
        "config_sha256": digest_config(run),
    }
    return job.model_copy(update=ended)


def log_of(job: JobRecord) -> str:
    """The file below the sweep with what the job prints."""
    return f"logs/{job.name}.log"
