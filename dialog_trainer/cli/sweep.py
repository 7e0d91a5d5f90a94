"""Runs through Hydra's own launcher: the jobs of a sweep (-m), and the flags that only show something."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dialog_trainer.cli.compose import Composed, NewRun, add_dict_prefixes, check, tree_of
from dialog_trainer.cli.conf import CONF
from dialog_trainer.cli.config_folder import search_path
from dialog_trainer.cli.guard import guard
from dialog_trainer.cli.overrides import quote_text
from dialog_trainer.config.frozen import FrozenMapping
from dialog_trainer.config.job import Job
from dialog_trainer.errors import ConfigError
from dialog_trainer.files import open_to_append
from dialog_trainer.screen import write_line
from dialog_trainer.tracking.run_directory import claim_run_directory

RunJob = Callable[[Job], int]
SWEEPS = Path("multirun")


def run_sweep(runs: list[NewRun], overrides: list[str], config_dir: str | None, run_job: RunJob) -> int:
    """Runs the jobs of a sweep, which were checked, and prints a table of them; returns the worst exit code."""
    others = sorted({run.config.mode for run in runs if not run.config.command.trains})
    if others:
        raise ConfigError([f"-m: sweeps train; mode={others[0]} works on one configuration at a time"])
    folder = claim_run_directory(SWEEPS, runs[0].config.name)
    write_line(f"{len(runs)} jobs, in {folder}/<job> (project is not used)")
    place = f"hydra.sweep.dir={quote_text(folder)}"
    allowed = {name for run in runs for name in run.config.allow_targets}
    try:
        return run_hydra(
            ["--multirun", *add_dict_prefixes(overrides), place, *search_path(config_dir)],
            lambda config: _run_one(config, allowed, run_job),
        )
    finally:
        _print_jobs(folder)


def run_hydra(arguments: list[str], action: Callable[[DictConfig], int]) -> int:
    """Lets Hydra compose each job and call `action`; returns the worst exit code."""
    codes: list[int] = []
    sys.argv = ["dialog-trainer", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(
        lambda config: codes.append(action(config))
    )()
    return max(codes, default=0)


def _run_one(config: DictConfig, allowed: set[str], run_job: RunJob) -> int:
    """One job of a sweep, in the folder that Hydra made. An error ends this job only; a signal ends the sweep."""
    context = HydraConfig.get()
    overrides = list(context.overrides.task)
    folder = Path(context.runtime.output_dir)
    write_line(f"== job {context.job.num}: {' '.join(overrides)}")
    code = 1
    try:
        code = guard(lambda: run_job(_job_of(config, context, overrides, allowed, folder)))
    finally:
        row = {"job": context.job.num, "overrides": overrides, "exit_code": code}
        with open_to_append(folder.parent, "jobs.jsonl") as file:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    if code in (75, 130):
        raise SystemExit(code)
    return int(code != 0)


def _job_of(config: DictConfig, context: Any, overrides: list[str], allowed: set[str], folder: Path) -> Job:
    choices = {group: name for group, name in context.runtime.choices.items() if isinstance(name, str)}
    hydra_node = OmegaConf.to_container(context, resolve=False, enum_to_str=True)
    files = FrozenMapping({"hydra": {"hydra": hydra_node}, "overrides": overrides})
    checked = check(Composed(tree_of(config, overrides), choices, files, {}), allowed)
    # A run of a sweep is where the sweep is.
    return Job(
        checked.replace({"project": str(folder.parent), "name": folder.name}), parent=str(folder), hydra_files=files
    )


def _print_jobs(folder: Path) -> None:
    if not (folder / "jobs.jsonl").exists():  # it ended before any job did
        return
    from rich.console import Console

    from dialog_trainer.reporting.terminal import print_tables
    from dialog_trainer.sweeps.status import build_sweep_table

    print_tables(Console(file=sys.stdout), [build_sweep_table(folder)])
