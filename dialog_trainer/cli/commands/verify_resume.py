"""mode=verify_resume: whether a resume is exact on this machine, with the settings that are typed.

One run trains straight to the end. Others are stopped by a signal, each at another place, and resumed in a new process; one
more forks from the straight one, as the jobs of a sweep do. Their final files must be those of the straight run, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dialog_trainer.amounts import format_duration
from dialog_trainer.build.mask import build_mask
from dialog_trainer.cli.commands.stopped_run import (
    MIN_STEPS,
    Fault,
    plan_faults,
    run_to_end,
    run_until,
    validation_every,
)
from dialog_trainer.cli.overrides import quote_text
from dialog_trainer.cli.saved_config import load_changed_job, read_saved
from dialog_trainer.config.job import Job
from dialog_trainer.config.machine import PER_MACHINE, count_processes, find_process_errors
from dialog_trainer.config.schema import Config
from dialog_trainer.errors import ConfigError, DialogTrainerError
from dialog_trainer.files import remove_directory
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.reporting.console import make_printer
from dialog_trainer.reporting.tables import TextTable
from dialog_trainer.reporting.terminal import RunConsole, print_tables
from dialog_trainer.signals import StopRequest, StopSignal
from dialog_trainer.sweeps.forks import branch_name
from dialog_trainer.tracking.jsonl import Row, read_newest_rows, read_rows
from dialog_trainer.tracking.run_directory import claim_run_directory, read_origin
from dialog_trainer.training.checkpoint_comparison import compare_checkpoints, find_value_difference
from dialog_trainer.training.checkpoint_directory import KINDS, locate
from dialog_trainer.types import Say

# Of a validation: it shows whether a resume is exact as well as a long one does.
MAX_REPLIES = 4
MAX_DIALOGUES = 16
# Values of a row that differ between equal runs.
_TIMES = {"attempt", "time_seconds", "tokens_per_second", "data_seconds", "mfu"}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A run that is compared with the straight one.

    Attributes:
        name: its folder.
        what: what happened to it.
        until: updates that had been made when it happened.
        since: the step from which it went on.
        differences: the first place in each file that differs.
    """

    name: str
    what: str
    until: int
    since: int
    differences: list[str]


def verify_resume(job: Job, console: RunConsole) -> int:
    """mode=verify_resume. Returns 0 where all runs are equal, 1 where one differs."""
    say, config = make_printer(console), job.config
    if config.steps < MIN_STEPS:
        raise ConfigError(
            [f"steps={config.steps}: mode=verify_resume needs at least {MIN_STEPS}, to stop at some of them"]
        )
    timeline = build_timeline(build_mask(config), config.planned_steps)
    switch = timeline.last_change if 0 < timeline.last_change < config.steps else None
    # Where the jobs of a sweep over the mask fork.
    fork_at = timeline.first_change if 0 < timeline.first_change < config.steps else config.steps // 2
    faults = plan_faults(config.steps, switch, config.seed)
    trains = config.replace({"mode": "train"})
    errors = find_process_errors(trains, count_processes(trains), started=False)
    if errors:
        raise ConfigError(errors)
    project = Path(config.project)
    with StopSignal() as stop:
        folder = claim_run_directory(project, f"{config.name}-verify_resume")
        try:
            outcomes = _train_all(job, folder, faults, fork_at, stop, say)
        except DialogTrainerError as error:
            error.args = (f"{error}\nkept in {folder}",)
            raise
        except StopRequest:
            remove_directory(project, folder.name)
            say(f"stopped before all runs were compared; {folder} is removed")
            raise
    equal = not any(outcome.differences for outcome in outcomes)
    if equal:
        remove_directory(project, folder.name)
    print_tables(console, [_build_table(outcomes, switch)])
    for outcome in outcomes:
        for difference in outcome.differences:
            say(f"{outcome.name}: {difference}")
    if equal:
        say(
            f"equal: {len(outcomes)} runs that were resumed or forked have the rows, replies and checkpoints of the straight "
            f"one, bit for bit ({folder} is removed)"
        )
    else:
        say(f"different: the straight run and those that differ are kept in {folder}")
    return 0 if equal else 1


def _train_all(
    job: Job, folder: Path, faults: Sequence[Fault], fork_at: int, stop: StopSignal, say: Say
) -> list[_Outcome]:
    config, count = _short_validations(job.config, folder), len(faults) + 2
    say(
        f"{count} runs of {config.steps:,} steps, one after the other, in {folder}: one straight to the end, {len(faults)} "
        f"that are stopped and resumed, one that forks. They take about {count} times as long as one, and the disk space of two"
    )
    say(
        f"settings of its own: validated every {config.validate_every_n_steps:,} steps on up to {MAX_DIALOGUES} dialogues "
        f"with replies in up to {MAX_REPLIES}, saved at validations, patience=0, no figures, no logger"
    )
    start = time.monotonic()
    straight = folder / "straight"
    keeps = config.replace({"sweep.keep_at": [fork_at]})
    run_to_end(_new_job(job, keeps, folder, "straight"), folder / "straight.txt", stop)
    seconds = time.monotonic() - start
    trained = max(row["time_seconds"] for row in read_newest_rows(straight / "metrics.jsonl", "validation"))
    others = len(faults) * (2 * seconds - trained) + seconds  # each that is stopped starts twice
    say(
        f"1/{count} straight: {config.steps:,} steps in {format_duration(seconds)}; the others take about "
        f"{format_duration(others)} together"
    )
    # With every `auto` as the first run has resolved it: another measurement would be another run.
    config = Config.from_dict(read_saved(straight)).replace({"allow_targets": config.allow_targets})
    outcomes = []
    for number, fault in enumerate(faults, start=2):
        output = folder / f"{fault.name}.txt"
        state = run_until(fault, _new_job(job, config, folder, fault.name), output, stop)
        say(f"{number}/{count} {fault}: goes on from step {state.step:,}")
        run_to_end(_resume_job(config, folder / fault.name), output, stop)
        outcomes.append(_compare(straight, fault.name, str(fault), fault.step, state.step))
    say(f"{count}/{count} fork of the straight run at step {fork_at:,}")
    fork = config.replace({"sweep.fork_from": str(straight / branch_name(fork_at))})
    run_to_end(_new_job(job, fork, folder, "fork"), folder / "fork.txt", stop)
    return [*outcomes, _compare(straight, "fork", "fork of the straight run", fork_at, fork_at)]


def _compare(straight: Path, name: str, what: str, until: int, since: int) -> _Outcome:
    """Compares a finished run, and removes it where it is equal."""
    folder = straight.parent
    differences = compare_runs(straight, folder / name)
    if name == "fork" and read_origin(folder / name) is None:
        differences.append(f"the branch was not used; {folder / name}.txt says why")
    if not differences:
        remove_directory(folder, name)
    return _Outcome(name, what, until, since, differences)


def _short_validations(config: Config, folder: Path) -> Config:
    """The user's configuration of a run, with few and short validations, and without what is no part of the result."""
    most = {"data.max_validation_dialogues": MAX_DIALOGUES, "metrics.max_dialogues": MAX_REPLIES}
    flat = config.flat()
    changed = config.replace(
        {
            "mode": "train",
            "project": str(folder),
            "schedule_steps": config.planned_steps,
            "whole_epochs": False,
            "validate_every_n_steps": validation_every(config.steps),
            "save_every_n_steps": None,
            "save_every_minutes": None,
            "log_every_n_steps": 1,
            "prediction_print_n": MAX_REPLIES,
            "patience": 0,
            "metrics.max_seconds": None,
            "figures.enabled": False,
            **{key: min(flat[key] or limit, limit) for key, limit in most.items()},
        }
    )
    return Config.from_dict(changed.to_dict() | {"logger": {"_target_": None}})


def _new_job(job: Job, config: Config, folder: Path, name: str) -> Job:
    return Job(config.replace({"name": name}), parent=str(folder), name=name, hydra_files=job.hydra_files)


def _resume_job(config: Config, run: Path) -> Job:
    """The job of the command that a user types to resume the run as it was started."""
    flat = config.flat()
    typed = {key: str(flat[key]) for key in PER_MACHINE if isinstance(flat[key], int)}
    typed |= {"resume_model_dir": quote_text(run), "allow_targets": f"[{','.join(config.allow_targets)}]"}
    if isinstance(config.device, tuple):
        typed["device"] = f"[{','.join(map(str, config.device))}]"
    if config.data.cache_dir is not None:
        typed["data.cache_dir"] = quote_text(config.data.cache_dir)
    options = [f"{key}={value}" for key, value in typed.items()]
    return load_changed_job(["mode=resume", "load_model_type=last", *options], None)


def _build_table(outcomes: Sequence[_Outcome], switch: int | None) -> TextTable:
    """A row for each run but the straight one."""
    head = ["run", "went on from step", "steps repeated", "mask switch", "final files"]
    rows = []
    for outcome in outcomes:
        crosses = switch is not None and outcome.since < switch
        rows.append(
            [
                outcome.what,
                f"{outcome.since:,}",
                f"{max(0, outcome.until - outcome.since):,}",
                f"crossed at {switch:,}" if crosses else "-",
                "different" if outcome.differences else "equal",
            ]
        )
    return TextTable("Resumed and forked runs, compared with the straight one", head, rows)


def compare_runs(expected: Path, found: Path) -> list[str]:
    """The first place in the rows, the replies and each checkpoint where a finished run differs; times may."""
    runs = expected, found
    differences = []
    for split in ("train", "validation", "probe"):
        one, other = (_by_step(read_newest_rows(run / "metrics.jsonl", split)) for run in runs)
        differences.append((f"metrics.jsonl, {split}", find_value_difference(one, other)))
    one_replies, other_replies = (_newest_replies(run / "replies.jsonl") for run in runs)
    differences.append(("replies.jsonl", find_value_difference(one_replies, other_replies)))
    for kind in KINDS.values():
        places = [locate(run, kind) for run in runs]
        missing = [run for run, place in zip(runs, places, strict=True) if place is None]
        if len(missing) == 1:
            differences.append((f"weights/{kind}", f"is missing in {missing[0]}"))
        elif not missing:
            checkpoints = [run / str(place) for run, place in zip(runs, places, strict=True)]
            differences.append((f"weights/{kind}", compare_checkpoints(*checkpoints)))
    return [f"{file}: {difference}" for file, difference in differences if difference]


def _by_step(rows: Sequence[Row]) -> dict[str, Row]:
    return {f"step {row['step']}": {key: value for key, value in row.items() if key not in _TIMES} for row in rows}


def _newest_replies(path: Path) -> dict[str, list[Row]]:
    """The replies of each validation: those of the newest attempt."""
    rows = list(read_rows(path))
    newest = {row["step"]: row["attempt"] for row in rows}  # attempts are in the order of the file
    found: dict[str, list[Row]] = {f"step {step}": [] for step in sorted(newest)}
    for row in rows:
        if row["attempt"] == newest[row["step"]]:
            found[f"step {row['step']}"].append({key: value for key, value in row.items() if key != "attempt"})
    return found
