"""Runs the campaigns, prints their rows, and writes docs/reliability.md from them."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from tests.torture import attacks, damage, disk, fuzz, groups, kills, sweeps
from tests.torture.trials import Row, train_straight

ROOT = Path(__file__).resolve().parents[2]
# Campaign, and how much of it `make torture` runs: per cent of the damages, killed sweeps, kills, mutations, (all attacks,)
# disks, faults. The longest come first.
CAMPAIGNS = {
    "damage": (damage, 100),
    "sweeps": (sweeps, 12),
    "kills": (kills, 200),
    "fuzz": (fuzz, 20_000),
    "attacks": (attacks, 1),
    "disk": (disk, 30),
    "groups": (groups, 26),
}
PAGE = Path(__file__).with_name("reliability.md")


@dataclass(frozen=True)
class Result:
    """The rows of a campaign, and its wall-clock seconds."""

    name: str
    rows: list[Row]
    seconds: float


def run_campaigns(names: Sequence[str], scale: float, seed: int, folder: Path) -> list[Result]:
    """The results in the order of `CAMPAIGNS`; a campaign on each core, each printed when it is over."""
    straight = train_straight(folder / "straight")
    results = {}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        started = [
            pool.submit(run_campaign, name, scale, seed, folder / name, straight)
            for name in CAMPAIGNS
            if not names or name in names
        ]
        for campaign in as_completed(started):
            result = campaign.result()
            results[result.name] = result
            for line in table_of([result]):
                print(line, flush=True)
            for problem in (problem for row in result.rows for problem in row.problems):
                print(f"BAD {problem}", flush=True)
    return [results[name] for name in CAMPAIGNS if name in results]


def run_campaign(name: str, scale: float, seed: int, place: Path, straight: Path) -> Result:
    module, count = CAMPAIGNS[name]
    start = time.monotonic()
    place.mkdir(parents=True)
    rows = module.run(max(1, round(count * scale)), seed, place, straight)
    return Result(name, rows, time.monotonic() - start)


def table_of(results: Sequence[Result]) -> list[str]:
    lines = ["| campaign | part | trials | good | bad |", "|---|---|---:|---:|---:|"]
    for result in results:
        for row in result.rows:
            bad = len(row.problems)
            lines.append(f"| {result.name} | {row.part} | {row.trials:,} | {row.trials - bad:,} | {bad} |")
        trials, bad = sum(row.trials for row in result.rows), sum(len(row.problems) for row in result.rows)
        whole = f"**all, {result.seconds:,.0f} s**"
        lines.append(f"| **{result.name}** | {whole} | **{trials:,}** | **{trials - bad:,}** | **{bad}** |")
    return lines


def write_page(page: Path, results: Sequence[Result], scale: float, seed: int, seconds: float) -> None:
    """The page: its text beside this file, with the tables and the circumstances of this run."""
    notes = [f"- {row.part}: {note}." for result in results for row in result.rows for note in row.notes]
    bad = [f"- {shorten(problem)}" for result in results for row in result.rows for problem in row.problems]
    parts = {
        "TABLE": "\n".join(table_of(results)),
        "NOTES": "\n".join(notes),
        "BAD": "\n".join(["What was bad:", "", *bad]) if bad else "No trial was bad.",
        "RUN": describe_run(scale, seed, seconds),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, content in parts.items():
        text = text.replace(f"<!-- {name} -->", content)
    page.write_text(text, encoding="utf-8")


def shorten(problem: str) -> str:
    """The first line, without the folder of the campaign."""
    return re.sub(r"/\S*/(torture|fuzz)-[^/\s]*/", "", problem.splitlines()[0])[:300]


def describe_run(scale: float, seed: int, seconds: float) -> str:
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "dialog_trainer"]).returncode
    size = "" if scale == 1 else f", at {scale:g} of the full size (`TORTURE_SCALE={scale:g}`)"
    return (
        f"One run of `make torture`{size}: {datetime.date.today()}, commit {commit or 'unknown'}"
        f"{' with changes' if changed else ''}, seed {seed}, {seconds / 60:.0f} minutes on {os.cpu_count()} cores "
        f"({platform.machine()}, {platform.system()} {platform.release().split('-')[0]}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, CPU)."
    )
