"""mode=report: compares runs, and writes the report into the folder of the sweep; the page of a single run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from dialog_trainer.cli.overrides import DICTS
from dialog_trainer.cli.plain_yaml import MAX_BYTES, load_plain
from dialog_trainer.cli.run_folders import find_runs
from dialog_trainer.cli.saved_config import read_saved
from dialog_trainer.config.command_groups import ReportConfig
from dialog_trainer.config.frozen import flatten
from dialog_trainer.config.job import Job
from dialog_trainer.config.paths import expand_runs
from dialog_trainer.config.schema import Config
from dialog_trainer.errors import CheckpointError, ConfigError, DialogTrainerError
from dialog_trainer.files import read_bounded
from dialog_trainer.reporting.console import make_printer
from dialog_trainer.reporting.report.collect import JobStatus, RunRecord, collect_run
from dialog_trainer.reporting.report.report import build_report, write_report
from dialog_trainer.reporting.report.run_page import PAGE, write_run_page
from dialog_trainer.reporting.terminal import print_tables
from dialog_trainer.screen import announce_if_slow
from dialog_trainer.sweeps.attempt import log_of
from dialog_trainer.sweeps.processes import read_notes
from dialog_trainer.sweeps.progress import JobNotes
from dialog_trainer.sweeps.record import JobRecord
from dialog_trainer.sweeps.submitted import FOLDER
from dialog_trainer.types import Say

# More places than these make no title.
MAX_NAMED = 3


def report_runs(job: Job, console: Console) -> int:
    """mode=report of `runs`."""
    places = expand_runs(job.config.runs or ())
    if len(places) > 1 and job.config.report.out is None:
        raise ConfigError(
            ["mode=report: runs of several places need a folder for the report: pass report.out=<folder>"]
        )
    report_on(places, job.config.report, job.config.figures.enabled, console)
    return 0


def report_on(places: Sequence[Path], options: ReportConfig, with_figures: bool, console: Console) -> None:
    """Prints and writes the report on the runs in `places`: folders of sweeps, runs, or folders of runs.

    Raises `CheckpointError` where there is no run that is complete, `ConfigError` for options that do not fit the runs.
    """
    say = make_printer(console)
    found = [pair for place in places for pair in find_runs(place)]
    with announce_if_slow(f"reading {len(found)} runs"):
        notes = list(_notes_of_submitted(found))
        runs, absent = _collect(found)
    for line in notes:
        say(line)
    if len(runs) == 1 and places == [runs[0].folder]:
        write_run_page(runs[0])
        say(f"one run: its own page is written to {runs[0].folder / PAGE}; to compare runs, pass their folder")
        return
    report = build_report(f"Report on {_name_places(places)}", runs, absent, options)
    folder = Path(options.out) if options.out else places[0]
    folder.mkdir(parents=True, exist_ok=True)
    with announce_if_slow("drawing the figures of the report"):
        names = write_report(folder, report, with_figures)
    print_tables(console, [report.primary_table])
    for line in (*report.headline, *(f"warning: {warning}" for warning in report.warnings)):
        say(line)
    say(f"written to {folder}: {', '.join(names)}")


def _notes_of_submitted(found: Iterable[tuple[Path, JobRecord | None]]) -> Iterator[str]:
    """The notes of jobs that were submitted, which no command has shown while they ran."""
    notes = JobNotes()
    for folder, record in found:
        sweep = folder.parent
        if record and (sweep / FOLDER).is_dir():
            yield from notes.add(record.name, read_notes(sweep, log_of(record)))


def report_run(folder: Path, say: Say) -> None:
    """Writes the page of a run; says where, or why not: a run that has ended must not fail for it."""
    try:
        write_run_page(collect_folder(folder, None))
        say(f"report:   {folder / PAGE}")
    except (OSError, DialogTrainerError) as error:
        say(f"note: {folder / PAGE} could not be written: {error}")


def _collect(found: Iterable[tuple[Path, JobRecord | None]]) -> tuple[list[RunRecord], list[tuple[str, str]]]:
    """The runs that can be read, and the names of the others with the reason."""
    runs: list[RunRecord] = []
    absent: list[tuple[str, str]] = []
    for folder, record in found:
        status = _describe_status(record) if record else None
        try:
            # Of a job the swept options alone were typed for it.
            runs.append(collect_folder(folder, record.overrides if record else None, status))
        except CheckpointError as error:
            waits = status is not None and not folder.exists()
            absent.append((folder.name, _describe_absent(status) if waits and status else str(error)))
    return runs, absent


def _name_places(places: Sequence[Path]) -> str:
    """A few places by their names; many runs by the folders that they lie in."""
    names = [place.resolve().name for place in places]
    if len(names) <= MAX_NAMED:
        return ", ".join(names)
    return f"{len(names)} folders of {', '.join(dict.fromkeys(place.resolve().parent.name for place in places))}"


def collect_folder(folder: Path, typed: Sequence[str] | None, status: JobStatus | None = None) -> RunRecord:
    """The record of a run folder. `typed`: its own options, None: as its files have them. Raises `CheckpointError`."""
    tree = read_saved(folder)
    try:
        Config.read(tree)
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'args.yaml'}: {'; '.join(error.errors)}") from None
    settings = flatten(tree, frozenset(DICTS))
    return collect_run(folder, settings, _read_typed(folder) if typed is None else tuple(typed), status)


def _read_typed(folder: Path) -> tuple[str, ...]:
    """What was typed for a run; nothing where that is not known."""
    try:
        typed = load_plain(read_bounded(folder, ".hydra/overrides.yaml", MAX_BYTES))
    except (OSError, ValueError):
        return ()
    return tuple(text for text in typed if isinstance(text, str)) if isinstance(typed, list) else ()


def _describe_absent(status: JobStatus) -> str:
    return f"{status.end} ({status.error})" if status.error else status.end


def _describe_status(record: JobRecord) -> JobStatus:
    ends = {
        "done": record.end or "finished",
        "stopped": f"stopped by a signal at step {record.steps_done:,} of {record.steps:,}",
        "running": f"running: step {record.steps_done:,} of {record.steps:,}",
    }
    return JobStatus(ends.get(record.status, record.status), record.error, record.seconds, record.tokens)
