"""Writes a run's own page, report.html, at its end and after each mode=validate."""

from __future__ import annotations

from pathlib import Path

from dialog_trainer.cli.commands.report import collect_folder
from dialog_trainer.errors import DialogTrainerError
from dialog_trainer.reporting.report.run_page import PAGE, write_run_page
from dialog_trainer.types import Say


def report_run(folder: Path, say: Say) -> None:
    """Writes the page of a run; says where, or why not: a run that has ended must not fail for it."""
    try:
        write_run_page(collect_folder(folder, None))
        say(f"report:   {folder / PAGE}")
    except (OSError, DialogTrainerError) as error:
        say(f"note: {folder / PAGE} could not be written: {error}")
