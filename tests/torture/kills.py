"""kill -9 at random moments; the run goes on until its end, and equals one that nothing happened to."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from helpers.processes import Started

from tests.torture.trials import (
    SECONDS,
    STEPS,
    Row,
    command,
    compare,
    execute,
    find_leftovers,
    find_traceback,
    kill,
    newest_rows,
    resume_options,
    tiny_options,
    train_straight,
)

PARTS = ("start", "cache building", "training", "save", "validation and generation", "mode=validate")
# After the landmark, at most so long: what a landmark begins takes about that.
DELAYS = (1.5, 0.3, 0.5, 0.05, 0.3, 2.0)


def run(count: int, seed: int, folder: Path) -> list[Row]:
    draw = random.Random(f"kills {seed}")
    straight = train_straight(folder / "straight")
    validated = validate(straight, folder / "straight/cache")
    rows = {part: Row(f"kill -9 in {part}") for part in PARTS}
    ended = Row("runs that were killed, at their end")
    lost = []
    number = 0
    while sum(row.trials for row in rows.values()) < count:
        place = folder / f"killed-{number}"
        shutil.copytree(folder / "straight/dialogues", place / "dialogues")
        kills = min(draw.randint(1, 6), count - sum(row.trials for row in rows.values()))
        ended.try_out(lambda place=place, kills=kills: kill_until_end(place, straight, kills, draw, rows, lost))
        if not ended.problems and sum(row.trials for row in rows.values()) < count:
            part = rows["mode=validate"]
            part.try_out(lambda place=place: kill_validation(place, validated, draw))
        if not ended.problems:
            shutil.rmtree(place)
        number += 1
    ended.notes.append(
        f"{number} runs, {len(lost)} kills after the first row: {sum(lost)} steps repeated, at most {max(lost, default=0)} at once"
    )
    return [*rows.values(), ended]


def kill_until_end(
    place: Path, straight: Path, kills: int, draw: random.Random, rows: dict[str, Row], lost: list[int]
) -> str | None:
    """Starts a run with a cold cache, kills it `kills` times, and lets it end. Problems of a kill go to its row."""
    cache, found, whole, reached = place / "cache", place / "runs/run", 0, 0
    moments = sorted(draw.choices(range(len(PARTS) - 1), k=kills))
    for index in range(kills + 1):
        if not list(found.glob("weights/step-*")):  # killed before its first checkpoint: started again
            shutil.rmtree(place / "runs", ignore_errors=True)
            options, whole, reached = tiny_options(place / "dialogues", place), 0, 0
        else:
            options = resume_options(found)
        with command(options, place, cache) as job:
            part = None
            if index < kills:
                moment = moments[index]
                wait(job, landmark(moment, place, draw), draw.uniform(0, DELAYS[moment]))
                kill(job)
                part = rows[PARTS[moment]]
            code, output = job.ended(SECONDS)
        problem = check_resume(output, whole) or find_traceback(output)
        if part:
            part.add(problem if code in (0, -9) else f"exit code {code}: {output}")
        elif problem or code:
            return problem or f"the last resume ended with {code}: {output}"
        steps = (
            [step for step, split in newest_rows(found) if split == "train"]
            if (found / "metrics.jsonl").exists()
            else []
        )
        saved = [int(path.name[5:13]) for path in found.glob("weights/step-*")]
        whole, reached = max(saved, default=0), max([reached, *steps])
        if part and saved:
            lost.append(max(0, reached + 1 - whole))
    return compare(found, straight) or find_leftovers(found, cache)


def check_resume(output: str, whole: int) -> str | None:
    """Whether a resume started from the newest checkpoint that lay there when its predecessor was killed."""
    started = re.search(r"steps (\d+) to", output)
    if started and int(started[1]) < whole:
        return f"resumed from step {started[1]} although step {whole} was saved"
    return None


def landmark(moment: int, place: Path, draw: random.Random) -> Callable[[], bool]:
    """What must have happened before the process is killed."""
    run, metrics = place / "runs/run", place / "runs/run/metrics.jsonl"
    size = metrics.stat().st_size if metrics.exists() else 0

    def holds_after(text: str) -> Callable[[], bool]:
        def holds() -> bool:
            if not metrics.exists():
                return False
            with metrics.open("rb") as file:
                file.seek(size)
                return text.encode() in file.read()

        return holds

    match PARTS[moment]:
        case "cache building":
            return lambda: any((place / "cache").rglob(".aside-*"))
        case "training":
            return holds_after(f'"step": {draw.randrange(STEPS)}, ')
        case "save":
            return lambda: any(run.glob("weights/.aside-*"))
        case "validation and generation":
            return holds_after(f'"step": {draw.choice((9, 19, 29))}, ')
    return lambda: True


def wait(job: Started, holds: Callable[[], bool], seconds: float) -> None:
    """Until the landmark, or the end of the process, then `seconds` more."""
    while job._exit_code() is None and not holds():
        time.sleep(0.002)
    end = time.monotonic() + seconds
    while job._exit_code() is None and time.monotonic() < end:
        time.sleep(0.002)


def validation_options(run: Path) -> list[str]:
    return ["mode=validate", f"resume_model_dir='{run}'", "load_model_type=last", "split=validation"]


def validate(run: Path, cache: Path) -> dict[str, bytes]:
    """The files of mode=validate."""
    code, output = execute(validation_options(run), run.parent, cache)
    if code:
        raise RuntimeError(f"mode=validate ended with {code}: {output}")
    return {path.name: path.read_bytes() for path in sorted(run.glob("*/**/replies*")) if path.is_file()}


def kill_validation(place: Path, expected: dict[str, bytes], draw: random.Random) -> str | None:
    run, cache = place / "runs/run", place / "cache"
    with command(validation_options(run), place, cache) as job:
        wait(job, lambda: True, draw.uniform(0, DELAYS[-1]))
        kill(job)
        _, output = job.ended(SECONDS)
    found = validate(run, cache)
    return find_traceback(output) or (
        None if found == expected else f"other replies: {sorted(found)} {sorted(expected)}"
    )
