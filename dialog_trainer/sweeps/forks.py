"""Which jobs of a sweep share their first updates, and where the branches lie that they fork from.

Runs that differ in their mask schedule alone are equal, bit for bit, until the weights of the mask first differ. So one of
them, the root, is trained whole, and keeps a branch (its state after so many updates) for each other one. Example with 1,000
steps, `mask_schedule=step` and five values of `train_user_turn_mask_step`:

    1     root, 1,000 updates       keeps branches at 250, 500 and 750
    0     1,000 updates of its own: its weights differ from the start
    .25   forks at 250: 750 updates;     .5   at 500: 500;     .75   at 750: 250

    in all 3.5 times 1,000 updates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dialog_trainer.files import remove_directory
from dialog_trainer.masking.timeline import ScheduleTimeline
from dialog_trainer.sweeps.job_folder import can_resume
from dialog_trainer.sweeps.record import JobRecord

BRANCHES = "branches"
# With `sweep.fork=auto`, the part of a job that must be shared.
MIN_SHARED = 0.1


@dataclass(frozen=True, slots=True)
class Forkable:
    """A job that may share updates: `family` is equal for jobs that differ in their mask schedule alone."""

    index: int
    family: str
    timeline: ScheduleTimeline
    steps: int


def find_forks(jobs: list[Forkable], min_shared: float) -> dict[int, tuple[int, int]]:
    """Number of a job -> the number of the job that it forks from, and the updates that it shares with it.

    Of the jobs of a family whose first weights are equal, the root is the one whose weights change last.
    """
    classes: dict[tuple[object, ...], list[Forkable]] = {}
    for job in jobs:
        first = job.timeline.first
        # Where both roles weigh the same it does not matter whose turns are drawn.
        drawn = first.random_roles and first.user != first.assistant
        classes.setdefault((job.family, job.steps, first.user, first.assistant, drawn), []).append(job)
    found = {}
    for members in classes.values():
        root = max(members, key=lambda job: (_constant_until(job), -job.index))
        for job in members:
            shared = min(_constant_until(job), job.steps - 1)
            if job is not root and shared >= max(1, min_shared * job.steps):
                found[job.index] = root.index, shared
    return found


def _constant_until(job: Forkable) -> int:
    """Updates made before the weights of the mask change for the first time."""
    return min(job.timeline.first_change, job.steps) if job.timeline.changes else job.steps


def branch_name(step: int) -> str:
    return f"{BRANCHES}/step-{step:08d}"


def branch_of(sweep: Path, job: JobRecord) -> Path | None:
    """The branch that a job forks from; None where there is none."""
    if job.forked_from is None or job.forked_from_step is None:
        return None
    branch = sweep / job.forked_from / branch_name(job.forked_from_step)
    return branch if branch.is_dir() else None


def branch_steps(sweep: Path, jobs: Sequence[JobRecord], root: JobRecord) -> tuple[int, ...]:
    """The updates after which a job keeps a branch for one that has not started."""
    steps = {
        job.forked_from_step
        for job in jobs
        if job.forked_from == root.name and job.status != "done" and not can_resume(sweep / job.name)
    }
    return tuple(sorted(step for step in steps if step))


def remove_unneeded_branches(sweep: Path, jobs: Sequence[JobRecord]) -> None:
    """Removes the branches of jobs that do not run, where no job needs them any more."""
    needed = {job.forked_from for job in jobs if job.status != "done"}
    for job in jobs:
        if job.name not in needed and job.status not in ("queued", "running"):
            remove_directory(sweep, f"{job.name}/{BRANCHES}")


def plan_forks(record_jobs: Sequence[JobRecord], jobs: list[Forkable], min_shared: float) -> list[JobRecord]:
    """The jobs with the forks that are planned for them now. Only jobs that were never started take part: what others share
    with them is over."""
    new = [job for job in jobs if record_jobs[job.index].attempts == 0 and record_jobs[job.index].forked_from is None]
    return [
        record_jobs[index].model_copy(update={"forked_from": record_jobs[root].name, "forked_from_step": shared})
        for index, (root, shared) in find_forks(new, min_shared).items()
    ]
