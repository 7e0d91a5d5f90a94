"""What the campaigns share: rows of trials, a tiny run, and what of it must be equal however it came about."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.processes import Started, forked

from tests.conftest import made_up_turns, options_of_a_tiny_run

STEPS = 30
# A run that is not over by then hangs, however busy the machine is.
SECONDS = 240.0
# What differs between equal runs: times, and the attempt that made a row.
UNLIKE = {"time_seconds", "tokens_per_second", "data_seconds", "attempt"}
# Of a state: names and places of the run, not where it stands.
UNLIKE_STATE = {"attempt", "config", "run_id"}


@dataclass
class Row:
    """The trials of one kind; `notes` are figures worth a line in the report, `problems` say how to repeat a bad one."""

    part: str
    trials: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, problem: str | None) -> None:
        self.trials += 1
        if problem:
            self.problems.append(f"{self.part}: {problem[:1500]}")

    def try_out(self, trial: Callable[[], str | None]) -> None:
        """Counts a trial, which returns its problem; one that raises has shown one."""
        try:
            problem = trial()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        self.add(problem)


def share(count: int, parts: int) -> int:
    """How many of `count` trials each of `parts` kinds gets; at least one."""
    return max(1, math.ceil(count / parts))


def write_dialogues(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, first, last in (("train", 0, 36), ("validation", 36, 44), ("test", 44, 48)):
        rows = (
            json.dumps({"turns": made_up_turns(2 + index % 8, seed + index)}) + "\n" for index in range(first, last)
        )
        (folder / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


def tiny_options(dialogues: Path, folder: Path) -> list[str]:
    """A run of a few seconds that saves at every second step and validates at every tenth, with replies."""
    return [
        *options_of_a_tiny_run(dialogues, folder),
        "model.dropout=0.2",
        f"steps={STEPS}",
        "save_every_n_steps=2",
        "validate_every_n_steps=10",
    ]


def command(options: list[str], folder: Path, cache: Path):
    """The command line in a process of its own; its text goes to `folder/output.txt`."""
    return forked(options, folder, XDG_CACHE_HOME=str(cache))


def execute(options: list[str], folder: Path, cache: Path, seconds: float = SECONDS) -> tuple[int, str]:
    """Exit code and text of a command that is left alone."""
    with command(options, folder, cache) as job:
        return job.ended(seconds)


def resume(run: Path, cache: Path, *options: str) -> tuple[int, str]:
    return execute(resume_options(run, *options), run.parent, cache)


def resume_options(run: Path, *options: str) -> list[str]:
    return ["mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", *options]


def train_straight(folder: Path, *options: str) -> Path:
    """A run that nothing happens to, with dialogues and cache beside it; returns its folder."""
    dialogues = write_dialogues(folder / "dialogues")
    code, output = execute([*tiny_options(dialogues, folder), *options], folder, folder / "cache")
    if code:
        raise RuntimeError(f"the run without a fault ended with {code}: {output}")
    return folder / "runs/run"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def newest_rows(run: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """The last row of each step and split, without times."""
    found = {}
    for line in (run / "metrics.jsonl").read_bytes().splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            found[row["step"], row["split"]] = {key: value for key, value in row.items() if key not in UNLIKE}
    return found


def count_broken_lines(run: Path) -> int:
    broken = 0
    for name in ("metrics.jsonl", "replies.jsonl"):
        for line in (run / name).read_bytes().splitlines() if (run / name).exists() else ():
            try:
                json.loads(line)
            except ValueError:
                broken += 1
    return broken


def saved_state(run: Path) -> dict[str, Any]:
    state = json.loads((run / "weights/last/trainer/state.json").read_text(encoding="utf-8"))
    return {key: value for key, value in state.items() if key not in UNLIKE_STATE}


def compare(run: Path, straight: Path) -> str | None:
    """The first thing in which a finished run differs from the straight one."""
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        for kind in ("last", "best_loss", "best_metric"):
            if digest(run / "weights" / kind / name) != digest(straight / "weights" / kind / name):
                return f"weights/{kind}/{name} differs"
    for what, of in (("state.json", saved_state), ("rows", newest_rows)):
        one, other = of(run), of(straight)
        different = sorted(str(key) for key in one.keys() | other.keys() if one.get(key) != other.get(key))
        if different:
            return f"{what} differs in {', '.join(different[:5])}"
    broken = count_broken_lines(run)
    return f"{broken} lines cannot be parsed" if broken else None


def find_leftovers(*folders: Path) -> str | None:
    """What a process left half made; the next start removes it."""
    found = [
        str(path) for folder in folders for path in folder.rglob(".*-*") if path.name.startswith((".aside", ".gone"))
    ]
    return f"left half made: {found[:3]}" if found else None


def find_traceback(output: str) -> str | None:
    return f"a traceback: ...{output[output.index('Traceback') :]}" if "Traceback" in output else None


def kill(job: Started, number: int = signal.SIGKILL) -> None:
    """Sends a signal to the process of a command, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(job.pid, number)
