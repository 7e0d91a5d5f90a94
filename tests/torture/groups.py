"""Two and three processes: each fault of each rank and of the parent. Right exit code, no orphan, a whole checkpoint."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from helpers.processes import state

from tests.torture.trials import Row, command, find_traceback, resume, tiny_options, write_dialogues

# Signal, and the exit code of the whole; of a parent that is killed there is none.
FAULTS = {signal.SIGKILL: 1, signal.SIGSTOP: 1, signal.SIGTERM: 75, signal.SIGINT: 130}
TIMEOUT = 8


def run(count: int, seed: int, folder: Path, straight: Path) -> list[Row]:
    dialogues = write_dialogues(folder / "dialogues")
    draw = random.Random(f"groups {seed}")
    trials = [*list_trials(2), *list_trials(3)]
    if count < len(trials):
        trials = draw.sample(trials, count)
    rows = {size: Row(f"{size} processes, each fault of each") for size in (2, 3)}
    for size, victim, number in trials:
        place = folder / f"{size}-{victim}-{number.name}"
        rows[size].try_out(
            lambda p=place, s=size, v=victim, n=number: strike(
                p, dialogues, folder / "cache", s, v, n, draw.randint(3, 9)
            )
        )
    return [row for row in rows.values() if row.trials]


def list_trials(size: int) -> Iterator[tuple[int, int | None, signal.Signals]]:
    """Size, victim (a rank, or None for the parent), signal."""
    for victim in (*range(size), None):
        for number in FAULTS:
            if victim is not None or number is not signal.SIGSTOP:  # a parent that stands still only stops to watch
                yield size, victim, number


def strike(
    place: Path, dialogues: Path, cache: Path, size: int, victim: int | None, number: signal.Signals, step: int
) -> str | None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    run = place / "runs/run"
    options = [
        *tiny_options(dialogues, place), f"processes={size}", "steps=100000", "save_every_n_steps=1", "model.dropout=0",
        "validate_every_n_steps=99999", f"distributed_timeout_seconds={TIMEOUT}",
    ]  # fmt: skip
    what = f"{number.name} to {'the parent' if victim is None else f'rank {victim}'} of {size}"
    with command(options, place, cache) as job:
        ranks = job.workers(size)
        job.row(run / "metrics.jsonl", step)
        os.kill(job.pid if victim is None else ranks[victim], number)
        code, output = job.ended(TIMEOUT + 60)
        # A parent that is killed says nothing; its ranks notice.
        left = job.left(TIMEOUT + 20 if victim is None else 3)
    expected = -9 if victim is None and number is signal.SIGKILL else FAULTS[number]
    if code != expected:
        return f"{what}: exit code {code} instead of {expected}: {output}"
    if left:
        return f"{what}: processes {left} are left"
    if expected == 1 and f"rank {victim} of {size} " not in output:
        return f"{what}: the message does not name the rank: {output}"
    if traceback := find_traceback(output):
        return f"{what}: {traceback}"
    saved = state(run)["step"]
    if saved < step - 1:
        return f"{what}: saved at {saved}, after step {step}"
    code, output = resume(run, cache, f"steps={saved + 1}", "processes=1")
    return f"{what}: the resume ended with {code}: {output}" if code or state(run)["step"] != saved + 1 else None
