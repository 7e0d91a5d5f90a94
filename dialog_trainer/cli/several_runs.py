"""mode=validate of several runs, one after the other in this process: one that fails does not keep the others from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dialog_trainer.cli.guard import guard
from dialog_trainer.cli.overrides import parse_overrides, quote_text
from dialog_trainer.cli.saved_config import load_changed_job
from dialog_trainer.config.job import Job
from dialog_trainer.config.paths import expand_runs, find_missing_runs
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import all_settings
from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.screen import announce_if_slow, write_line
from dialog_trainer.signals import EXIT_CODES


def read_places(overrides: list[str]) -> tuple[Path, ...]:
    """The folders of `runs`, if it was typed. Raises `ConfigError`."""
    good, _ = parse_overrides(overrides, {}, sweep=False)
    typed = [override.value() for override in good if override.key_or_group == "runs"]
    if not typed:
        return ()
    try:
        places = all_settings(Config)["runs"].validate(typed[-1]) or ()
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    missing = find_missing_runs(places)
    if missing:
        raise ConfigError(missing)
    return tuple(expand_runs(places))


def run_on_each(
    places: tuple[Path, ...], overrides: list[str], config_dir: str | None, run_job: Callable[[Job], int]
) -> int:
    """Runs the command on every run that exists; returns the worst exit code. Options are checked for all runs first."""
    from dialog_trainer.cli.run_folders import find_runs  # with numpy, which other commands on a run need later

    folders = [folder for place in places for folder, _ in find_runs(place) if folder.is_dir()]
    failed: dict[str, str] = {}
    jobs: list[tuple[Path, Job]] = []
    errors: list[str] = []
    with announce_if_slow(f"reading the options of {len(folders)} runs"):
        for folder in folders:
            line = f"resume_model_dir={quote_text(folder)}"
            try:
                jobs.append((folder, load_changed_job([*overrides, line], config_dir)))
            except CheckpointError as error:
                failed[folder.name] = str(error)
            except ConfigError as error:
                errors += error.errors
    if errors:
        raise ConfigError(errors)
    notes = dict.fromkeys(note for _, job in jobs for note in job.notes)
    for line in (*(f"note: {note}" for note in notes), *failed.values()):
        write_line(line)
    worst = 2 if failed else 0
    for number, (folder, job) in enumerate(jobs, start=1):
        write_line(f"== run {number} of {len(jobs)}: {folder}")
        code = guard(partial(run_job, job))
        if code in EXIT_CODES.values():
            return code
        if code:
            failed[folder.name] = f"exit code {code}"
        worst = max(worst, code)
    write_line(f"{len(folders) - len(failed)} of {len(folders)} runs are scored" + _list_failed(failed))
    return worst


def _list_failed(failed: dict[str, str]) -> str:
    return f"; not so, as said above: {', '.join(failed)}" if failed else ""
