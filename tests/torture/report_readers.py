"""Readers of what mode=report takes from run folders, and of `sweep.json`: for `fuzz_readers`, which see."""

from __future__ import annotations

import io
import json
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path

from dialog_trainer.cli.commands.report import collect_folder
from dialog_trainer.cli.compose import NewRun, compose_runs
from dialog_trainer.cli.job_commands import of_a_job
from dialog_trainer.cli.run_folders import find_runs
from dialog_trainer.cli.sweep import run_sweep
from dialog_trainer.config.command_groups import ReportConfig
from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.reporting.report.collect import RunRecord
from dialog_trainer.reporting.report.report import build_report, render_markdown
from dialog_trainer.reporting.report.run_page import write_run_page
from dialog_trainer.reporting.report.tables import render_csv
from dialog_trainer.sweeps.plan import ComposedJob, plan_sweep
from dialog_trainer.sweeps.record import SWEEP_FILE, read_sweep
from dialog_trainer.sweeps.status import build_sweep_table
from dialog_trainer.tracking.environment import ENVIRONMENT_FILE
from tests.helpers.run_folders import make_run, write
from tests.torture.fuzz_readers import MAX_ERROR, Reader, put_beside

MASK = "train_user_turn_mask_step"
OPTIONS = ReportConfig(metric=None, baseline=None, equivalence_margin=0.1, out=None)
SWEEP = ["model=gpt2_tiny", "data=chitchat", "steps=40", "patience=0", f"{MASK}=0,0.5,1", "sweep.dry_run=true"]
SCORES = "validation/test/response"


def make_scored_run(folder: Path, value: float, seed: int) -> Path:
    """A run with all files that a report reads."""
    losses = [2.5 + value / 10 + seed / 100 + dialogue / 50 for dialogue in range(6)]
    run = make_run(
        folder,
        losses[0],
        settings={MASK: value, "seed": seed},
        typed=[f"{MASK}={value}"],
        scored=losses,
        contaminated=1,
    )
    replies = [{"step": 40, "history": ["Hi .", f"turn {n}"], "reply": "Yes .", "reference": "No ."} for n in range(12)]
    write(run / "replies.jsonl", "".join(json.dumps(row) + "\n" for row in replies))
    write(run / ENVIRONMENT_FILE, json.dumps({"git": "commit 1, unchanged", "packages": "torch 2.13.0"}))
    with (run / "logs/rank-0.log").open("a") as log:
        log.write("what was understood of the data: two roles\nsplit  dialogues\ntrain  36\n\nrun folder\n")
    return run


@cache
def run_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        run = make_scored_run(Path(folder) / "run", 0.5, 0)
        return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@cache
def other_runs() -> tuple[RunRecord, ...]:
    """Those that the run with the mutated file is compared with."""
    with tempfile.TemporaryDirectory() as folder:
        places = [(value, seed) for value in (0.0, 0.5) for seed in (1, 2)]
        runs = (make_scored_run(Path(folder) / f"{value}-{seed}", value, seed) for value, seed in places)
        return tuple(collect_folder(run, None) for run in runs)


def read_run(folder: Path) -> object:
    """The tables and the page of the run. To draw the figures takes seconds: a test does."""
    put_beside(folder, run_files())
    run = collect_folder(folder, None)
    write_run_page(run)
    report = build_report("report", [run, *other_runs()], [], OPTIONS)
    quantities = [one.quantity for one in report.comparisons]
    return render_markdown(report), render_csv(report.runs, report.design, quantities)


@cache
def composed_sweep() -> tuple[NewRun, ...]:
    return tuple(compose_runs(SWEEP, None, sweep=True))


def valid_sweeps() -> list[bytes]:
    """A sweep whose jobs were not started, and one of which a job is done, one was stopped, and one waits for its branch."""
    jobs = [ComposedJob(of_a_job(run.overrides), run.config) for run in composed_sweep()]
    new = plan_sweep(jobs, None, "python -m dialog_trainer -m", "2026-01-31T12:00:00+00:00").record
    done = {"status": "done", "exit_code": 0, "steps_done": 40, "end": "finished", "seconds": 9.5, "attempts": 1}
    stopped = {"status": "stopped", "exit_code": 75, "steps_done": 13, "attempts": 2, "config_sha256": "a" * 64}
    forked = {"forked_from": new.jobs[2].name, "forked_from_step": 20}
    changes = (stopped, forked, done)
    started = tuple(job.model_copy(update=change) for job, change in zip(new.jobs, changes, strict=True))
    records = (new, new.model_copy(update={"jobs": started}))
    return [record.model_dump_json(indent=indent).encode() for record in records for indent in (None, 1)]


def read_record(folder: Path) -> object:
    """Reads `sweep.json`, and goes on with its sweep up to where the first job would start.

    A `ConfigError` there is about the sweep and not about the file, so it is no failure of the reader; its length is bounded.
    """
    record = read_sweep(folder)
    runs = [
        replace(run, config=run.config.replace({"project": str(folder.parent), "name": folder.name}),
                overrides=(*run.overrides, f"project={folder.parent}"))
        for run in composed_sweep()
    ]  # fmt: skip
    with redirect_stdout(io.StringIO()):
        try:
            run_sweep(runs, [], None)
        except ConfigError as error:
            if len(str(error)) > 10 * MAX_ERROR:
                raise RuntimeError(f"an error of {len(str(error)):,} characters") from None
    return build_sweep_table(folder, record), list(find_runs(folder))


def reader_of_run(name: str, file_name: str) -> Reader:
    return Reader(name, file_name, lambda: [run_files()[file_name]], read_run, CheckpointError)


REPORT_READERS = [
    Reader("sweep.json", SWEEP_FILE, valid_sweeps, read_record, CheckpointError),
    reader_of_run("environment.json", ENVIRONMENT_FILE),
    reader_of_run("args.yaml in a report", "args.yaml"),
    reader_of_run("metrics.jsonl in a report", "metrics.jsonl"),
    reader_of_run("state.json in a report", "weights/last/trainer/state.json"),
    reader_of_run("scores.json in a report", f"{SCORES}/scores.json"),
    reader_of_run("dialogues.jsonl in a report", f"{SCORES}/dialogues.jsonl"),
    reader_of_run("replies.jsonl in a report", "replies.jsonl"),
    reader_of_run("log in a report", "logs/rank-0.log"),
    reader_of_run("overrides.yaml in a report", ".hydra/overrides.yaml"),
]
