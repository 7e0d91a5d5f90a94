"""The table of the jobs of a sweep: their options, how they ended, and their best validations."""

from __future__ import annotations

from pathlib import Path

from dialog_trainer.errors import CheckpointError
from dialog_trainer.reporting.tables import TextTable
from dialog_trainer.sweeps.record import JobRecord, SweepRecord
from dialog_trainer.training.checkpoint_directory import locate
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.saved_state import read_state

HEAD = ["options", "job", "end", "steps done", "best loss (nats per token)", "its step", "best score", "its step"]


def build_sweep_table(folder: Path, record: SweepRecord) -> TextTable:
    """A row for each job, with the options in which it differs from others."""
    rows = [
        [
            " ".join(job.overrides) or "-",
            str(job.index),
            job.end or job.status,
            f"{job.steps_done:,}",
            *_best_validations(folder, job),
        ]
        for job in record.jobs
    ]
    return TextTable(f"Jobs in {folder}", HEAD, rows)


def _best_validations(folder: Path, job: JobRecord) -> list[str]:
    run = folder / job.name
    try:
        last = locate(run, "last")
        best = read_state(run, last).best if last else BestTracker()  # without: ended before its first checkpoint
    except CheckpointError:  # damaged
        return ["?"] * 4
    return [
        text
        for value, step in ((best.loss, best.loss_step), (best.score, best.score_step))
        for text in (("-", "-") if value is None else (f"{value:z.4f}", f"{step:,}"))
    ]
