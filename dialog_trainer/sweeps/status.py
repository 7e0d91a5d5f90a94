"""The table of the jobs of a sweep: their options, how they ended, and their best validations."""

from __future__ import annotations

import json
from pathlib import Path

from dialog_trainer.errors import CheckpointError
from dialog_trainer.reporting.tables import TextTable
from dialog_trainer.training.checkpoint_directory import locate
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.saved_state import read_state


def build_sweep_table(folder: Path) -> TextTable:
    """A row for each job in `jobs.jsonl` of the sweep's folder, with the options in which it differs from the others."""
    jobs = [json.loads(line) for line in (folder / "jobs.jsonl").read_text(encoding="utf-8").splitlines()]
    jobs.sort(key=lambda job: job["job"])
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    rows = [
        [
            " ".join(option for option in job["overrides"] if option not in common) or "-",
            str(job["job"]),
            "done" if job["exit_code"] == 0 else f"exit code {job['exit_code']}",
            *_best_validations(folder / str(job["job"])),
        ]
        for job in jobs
    ]
    head = ["options", "job", "end", "best loss (nats per token)", "its step", "best score", "its step"]
    return TextTable(f"Jobs in {folder}", head, rows)


def _best_validations(run: Path) -> list[str]:
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
