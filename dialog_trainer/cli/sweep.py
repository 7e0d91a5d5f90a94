"""-m: from the composed runs to a sweep that runs, in its folder, by the launcher that was chosen."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import hydra

from dialog_trainer.amounts import format_bytes
from dialog_trainer.build.mask import build_mask
from dialog_trainer.cli.compose import NewRun
from dialog_trainer.cli.conf import CONF
from dialog_trainer.cli.job_commands import JobCommands, of_a_job
from dialog_trainer.cli.launchers import ChosenLauncher, choose_launcher
from dialog_trainer.cli.submission import check_submission, submit_jobs
from dialog_trainer.config.groups import MaskScheduleConfig
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import show
from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.timeline import SAMPLES, build_timeline
from dialog_trainer.screen import write_line
from dialog_trainer.sweeps.devices import share_machine
from dialog_trainer.sweeps.disk import estimate_bytes
from dialog_trainer.sweeps.forks import MIN_SHARED, Forkable, plan_forks, remove_unneeded_branches
from dialog_trainer.sweeps.job_folder import digest_config
from dialog_trainer.sweeps.plan import (
    ComposedJob,
    SweepPlan,
    describe_work,
    digest_settings,
    identify,
    plan_sweep,
)
from dialog_trainer.sweeps.processes import describe_exit, start_process
from dialog_trainer.sweeps.record import SWEEP_FILE, SweepRecord
from dialog_trainer.sweeps.submitted import read_current
from dialog_trainer.tracking.run_directory import lock_run_directory

SWEEPS = Path("multirun")
REPORT_LOG = "logs/report.log"
POLL_SECONDS = 0.1
_FORKED_KEYS = ("train_user_turn_mask_step", "mask_schedule._target_")


def run_sweep(runs: list[NewRun], overrides: list[str], config_dir: str | None) -> int:
    """Plans the sweep, prints the plan, and runs what is left of it; returns the exit code. Raises `ConfigError`."""
    settings = runs[0].config.sweep
    launcher = choose_launcher(overrides, config_dir)
    folder = _find_folder(runs)
    composed = [_as_job(run) for run in runs]
    write_line(f"sweep {folder}")
    if not settings.early_stopping and any(run.config.patience for run in runs):
        write_line("  early stopping is off (patience=0), so that all jobs make as many updates as they are given; sweep.early_stopping=true leaves it on")  # fmt: skip
    with ExitStack() as stack:
        if folder.exists():
            stack.enter_context(lock_run_directory(folder))
        known = _read_known(folder)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        command = shlex.join(["python", "-m", "dialog_trainer", *sys.argv[1:]])
        plan = _check_folders(folder, plan_sweep(composed, known, command, now))
        plan = _add_forks(plan, settings.fork, settings.early_stopping, launcher.name)
        commands = JobCommands(folder, plan.jobs, config_dir)
        if launcher.submits:
            check_submission(launcher.name, plan, commands, launcher.settings)
        write_line(f"  {describe_work(plan)}{_describe_disk(folder, plan)}")
        if settings.dry_run:
            _print_jobs(plan)
            return 0
        if not folder.exists():
            folder.mkdir(parents=True)
            stack.enter_context(lock_run_directory(folder))
        if launcher.submits:
            return launcher.launch(lambda: _submit(folder, plan, commands, launcher), plan)
        return launcher.launch(lambda: _run_here(folder, plan, commands, launcher.settings["n_jobs"]), plan)


def run_hydra(arguments: list[str]) -> int:
    """Lets Hydra show something of what it composes."""
    sys.argv = ["dialog-trainer", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(lambda config: None)()
    return 0


def _find_folder(runs: Sequence[NewRun]) -> Path:
    """`<project>/<name>` where a project was typed, else `multirun/<name>`. Raises `ConfigError`."""
    errors = [f"mode={run.config.mode}: -m is for mode=train; any other mode works on one run or configuration at a time" for run in runs if run.config.mode != "train"]  # fmt: skip
    if runs[0].config.sweep.fork is True and runs[0].config.sweep.early_stopping:
        errors.append("sweep.fork=true: not with sweep.early_stopping=true, which may end a job before others fork")
    typed = [{line.partition("=")[0]: line for line in run.overrides} for run in runs]
    errors += [
        f"{key}: is where the sweep lies, and the same for all its jobs"
        for key in ("project", "name")
        if len({lines.get(key) for lines in typed}) > 1
    ]
    if errors:
        raise ConfigError(errors)
    config = runs[0].config
    folder = (Path(config.project) if "project" in typed[0] else SWEEPS) / config.name
    if folder.exists() and not (folder / SWEEP_FILE).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([f"{folder}: is there, and is no sweep of this version (no {SWEEP_FILE}); pass name=<other>"])
    return folder


def _as_job(run: NewRun) -> ComposedJob:
    lines, config = of_a_job(run.overrides), run.config
    if not config.sweep.early_stopping:
        lines = (*(line for line in lines if not line.startswith("patience=")), "patience=0")
        config = config.replace({"patience": 0})
    return ComposedJob(lines, config)


def _read_known(folder: Path) -> SweepRecord | None:
    """The record of the sweep, in which a job that a killed process left running is one that was stopped."""
    if not (folder / SWEEP_FILE).exists():
        return None
    record = read_current(folder)
    return record.with_jobs(
        job.model_copy(update={"status": "stopped"})
        for job in record.jobs
        if job.status == "running" and not job.submission
    )


def _check_folders(folder: Path, plan: SweepPlan) -> SweepPlan:
    """Compares the folders of the jobs with the record. Raises `ConfigError` for those that somebody has changed."""
    errors, fresh = [], []
    for index in plan.jobs:
        job = plan.record.jobs[index]
        run = folder / job.name
        if job.submission:
            continue
        if os.path.lexists(run):
            if run.is_symlink():
                errors.append(
                    f"{run}: is a link, and inside a sweep none is followed; put the folder itself in its place"
                )
            elif not job.attempts:
                errors.append(f"{run}: is in the way of a new job; move it elsewhere")
            elif job.config_sha256 and digest_config(run) != job.config_sha256:
                errors.append(
                    f"{run}: its args.yaml is another one than the sweep left; put it back, or move the folder elsewhere, "
                    "and the job is trained once more"
                )
        elif job.status == "done":
            write_line(f"  {job.name} was done, and its folder is gone: it is trained once more")
        if not os.path.lexists(run) and job.attempts:
            start = {"status": "waiting", "steps_done": 0, "end": None, "config_sha256": None, "exit_code": None}
            fresh.append(job.model_copy(update=start))
    if errors:
        raise ConfigError(errors)
    return replace(plan, record=plan.record.with_jobs(fresh))


def _add_forks(plan: SweepPlan, fork: bool | str, early_stopping: bool, launcher: str) -> SweepPlan:
    """The plan with the jobs that start from a branch of another one."""
    if not fork or early_stopping:
        return plan
    able = [
        Forkable(index, _family(job.config), build_timeline(build_mask(job.config), job.config.planned_steps), job.config.steps)
        for index, job in plan.jobs.items()
        if _is_exact(job.config) and not plan.record.jobs[index].submission
    ]  # fmt: skip
    forks = plan_forks(plan.record.jobs, able, 0.0 if fork is True else MIN_SHARED)
    if forks and launcher == "submitit_local":
        if fork is True:
            raise ConfigError(
                [f"sweep.fork=true: not with hydra/launcher={launcher}, whose jobs cannot wait for each other"]
            )
        write_line(f"  no forks with hydra/launcher={launcher}: {len(forks)} jobs train what they could share")
        return plan
    return replace(plan, record=plan.record.with_jobs(forks))


def _family(config: Config) -> str:
    """A digest of all settings but the mask schedule."""
    own = (*_FORKED_KEYS, *(f"mask_schedule.{key}" for key in config.mask_schedule.arguments))
    return digest_settings({key: value for key, value in identify(config).items() if key not in own})


def _is_exact(config: Config) -> bool:
    """Whether the timeline of its mask has all changes: a schedule of the user's own is sampled where it is long."""
    built_in = config.mask_schedule.target in MaskScheduleConfig.TARGETS
    return (built_in or config.planned_steps <= SAMPLES) and not config.whole_epochs


def _run_here(folder: Path, plan: SweepPlan, commands: JobCommands, n_jobs: int) -> int:
    if plan.submitted:
        raise ConfigError([f"hydra/launcher=local: jobs of this sweep wait or run as {', '.join(job.submission or '' for job in plan.submitted)}; wait for them, or cancel them"])  # fmt: skip
    from rich.console import Console

    from dialog_trainer.sweeps.plan import count_steps_left
    from dialog_trainer.sweeps.progress import SweepProgress
    from dialog_trainer.sweeps.runner import SweepRunner

    environments = share_machine(n_jobs, {job.config.device for job in plan.jobs.values()})
    hours = next(iter(plan.jobs.values())).config.sweep.max_hours
    with SweepProgress(Console(file=sys.stdout), sum(map(count_steps_left, plan.left))) as progress:
        runner = SweepRunner(
            folder, plan.record, list(plan.jobs), commands.make, progress, None if hours is None else 3600 * hours
        )
        code = runner.run(environments)
    _show_end(folder, runner.record, commands, with_report=code in (0, 1))
    return code


def _submit(folder: Path, plan: SweepPlan, commands: JobCommands, launcher: ChosenLauncher) -> int:
    """Submits what is left; a job that failed before is shown, and submitted once more."""
    from dialog_trainer.sweeps.progress import describe_end

    for job in plan.left:
        if job.status == "failed":
            write_line(f"  {job.name}: {describe_end(folder, job)}")
    record = submit_jobs(launcher.name, folder, plan, commands, launcher.settings)
    remove_unneeded_branches(folder, record.jobs)
    waits = [job for job in record.jobs if job.submission]
    _show_end(folder, record, commands, with_report=not waits)
    if waits:
        report = shlex.join(["python", "-m", "dialog_trainer", "mode=report", f"runs={folder}"])
        write_line(f"{len(waits)} of {len(record.jobs)} jobs wait or run. To see how far they are, and to compare those that are done:")  # fmt: skip
        write_line(f"  {report}")
        write_line("The same command again submits what failed or was cancelled.")
    return 0


def _show_end(folder: Path, record: SweepRecord, commands: JobCommands, with_report: bool) -> None:
    from rich.console import Console

    from dialog_trainer.reporting.terminal import print_tables
    from dialog_trainer.sweeps.status import build_sweep_table

    print_tables(Console(file=sys.stdout), [build_sweep_table(folder, record)])
    if with_report and any(job.status == "done" for job in record.jobs):
        write_report(folder, commands.make_report(record.settings.get("figures.enabled", True)))


def write_report(folder: Path, command: Sequence[str]) -> None:
    """Writes the report on a sweep, in a process of its own; the sweep does not fail with it."""
    process = start_process(command, folder, REPORT_LOG, {})
    while (code := process.poll()) is None:
        time.sleep(POLL_SECONDS)
    reason = describe_exit(code, folder, REPORT_LOG)
    write_line(
        f"report: {folder / 'report.html'}, report.md, results.csv" if code == 0 else f"note: no report: {reason}"
    )


def _describe_disk(folder: Path, plan: SweepPlan) -> str:
    done = [job for job in plan.record.jobs if job.status == "done"]
    needed = estimate_bytes(folder, plan.left, done, next(iter(plan.jobs.values())).config)
    if not needed:
        return ""
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    return f", {format_bytes(needed)}" + (
        f" of disk, of which {format_bytes(free)} are free: make room" if free < needed else ""
    )


def _describe_data(config: Config) -> str:
    data = config.data
    limits = {key: getattr(data, key) for key in ("max_train_dialogues", "max_validation_dialogues")}
    options = {**data.arguments, **limits}
    given = [f"data.{key}={show(value)}" for key, value in options.items() if value is not None]
    return " ".join(["  data:", data.target.rpartition(".")[2], *given])


def _print_jobs(plan: SweepPlan) -> None:
    """Prints each data set that the jobs would read, and the jobs."""
    for line in dict.fromkeys(_describe_data(job.config) for job in plan.jobs.values()):
        write_line(line)
    for index in plan.jobs:
        job = plan.record.jobs[index]
        shared = f", forks from {job.forked_from} at step {job.forked_from_step:,}" if job.forked_from else ""
        write_line(f"  {job.name}: {job.status}, {job.steps:,} steps{shared}")
