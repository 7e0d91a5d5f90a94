"""Submits the jobs of a sweep that are left, and returns: those that start at once as one array, and for each job that others
fork from one more array, which waits for it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dialog_trainer.cli.job_commands import JobCommands
from dialog_trainer.errors import ConfigError
from dialog_trainer.screen import write_line
from dialog_trainer.sweeps.attempt import Start
from dialog_trainer.sweeps.forks import branch_name, branch_of, branch_steps
from dialog_trainer.sweeps.job_folder import can_resume
from dialog_trainer.sweeps.plan import SweepPlan
from dialog_trainer.sweeps.queues import start_here, submit_array
from dialog_trainer.sweeps.record import JobRecord, SweepRecord, write_sweep
from dialog_trainer.sweeps.submitted import FOLDER, Submission, Task, write_submission

SLURM = "submitit_slurm"


def check_submission(launcher: str, plan: SweepPlan, commands: JobCommands, settings: Mapping[str, Any]) -> None:
    """Raises `ConfigError` with what does not go with jobs that are submitted."""
    configs = [job.config for job in plan.jobs.values()]
    hours = configs[0].sweep.max_hours
    errors = []
    if importlib.util.find_spec("submitit") is None:
        errors.append(f"hydra/launcher={launcher}: needs submitit; pip install 'dialog_trainer[slurm]'")
    if hours is not None:
        errors.append(f"sweep.max_hours={hours:g}: not with hydra/launcher={launcher}, which does not wait; set hydra.launcher.timeout_min")  # fmt: skip
    open_ones = [
        config for config in configs if config.precision == "auto" and "precision" not in commands.decide(config)
    ]
    if launcher == SLURM and open_ones:
        errors.append("precision=auto: the jobs of an array start at a time, and on machines that may differ; type precision=bf16 (GPUs from Ampere on) or precision=fp32")  # fmt: skip
    gpus = settings["gpus_per_node"] or 0
    errors += sorted(
        {
            f"device={list(device)}: needs hydra.launcher.gpus_per_node={len(device)}; it is {gpus}"
            for device in (config.device for config in configs)
            if isinstance(device, tuple) and len(device) != gpus
        }
    )
    if errors:
        raise ConfigError(errors)


def submit_jobs(
    launcher: str, folder: Path, plan: SweepPlan, commands: JobCommands, settings: Mapping[str, Any]
) -> SweepRecord:
    """Submits what is left of the plan; returns the record, which is written. Raises `ConfigError` where Slurm refuses."""
    record = plan.record
    write_sweep(folder, record)
    commands.set_default_threads(settings["cpus_per_task"])
    for root, jobs in group_by_root(folder, record, plan.left):
        tasks = tuple(_make_task(folder, record, job, commands) for job in jobs)
        number = write_submission(folder, Submission(tasks=tasks))
        # The code that torch compiles depends on the hashes of the interpreter.
        hashes = f"PYTHONHASHSEED={os.environ.get('PYTHONHASHSEED', '0')}"
        command = ["env", hashes, *commands.python, "dialog_trainer.cli.submitted_job", str(folder), str(number)]
        if launcher == SLURM:
            after = record.jobs[root].submission if root is not None else None
            names = submit_array(folder / FOLDER, command, len(jobs), {"job_name": folder.name, **settings}, after)
            waits = f", after {record.jobs[root].name}" if root is not None else ""
            array = names[0].removeprefix("slurm:").partition("_")[0]
            write_line(f"  submitted to Slurm: {_count(jobs)} as array {array}{waits}")
        else:
            names = [start_here(folder / FOLDER, [*command, str(index)], settings) for index in range(len(jobs))]
            write_line(f"  started here: {_count(jobs)}")
        record = record.with_jobs(
            job.model_copy(update={"status": "queued", "submission": name})
            for job, name in zip(jobs, names, strict=True)
        )
        write_sweep(folder, record)
    return record


def group_by_root(
    folder: Path, record: SweepRecord, jobs: Sequence[JobRecord]
) -> Iterator[tuple[int | None, list[JobRecord]]]:
    """The jobs that start at once, and those that wait for a job that others fork from, by its number."""
    roots = {job.name: job.index for job in record.jobs}
    left = {job.name for job in jobs}
    groups: dict[int | None, list[JobRecord]] = {None: []}
    for job in jobs:
        root = roots.get(job.forked_from or "")
        coming = root is not None and (job.forked_from in left or record.jobs[root].submission is not None)
        waits = coming and branch_of(folder, job) is None and not can_resume(folder / job.name)
        groups.setdefault(root if waits else None, []).append(job)
    return ((root, members) for root, members in groups.items() if members)


def _make_task(folder: Path, record: SweepRecord, job: JobRecord, commands: JobCommands) -> Task:
    def make(resumes: bool = False, fork_from: Path | None = None) -> tuple[str, ...]:
        return tuple(commands.make_arguments(job, Start(resumes, fork_from, keep_at)))

    keep_at = branch_steps(folder, record.jobs, job)
    fork = None
    if job.forked_from and job.forked_from_step:
        fork = make(fork_from=folder / job.forked_from / branch_name(job.forked_from_step))
    return Task(job=job, start=make(), resume=make(resumes=True), fork=fork)


def _count(jobs: Sequence[JobRecord]) -> str:
    return f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}"
