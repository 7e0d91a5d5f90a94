"""kill -9 at random moments; the run goes on until its end, and equals one that nothing happened to."""

from __future__ import annotations

import random
import re
import shutil
import signal
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
)

PARTS = ("start", "cache building", "training", "save", "validation and generation", "mode=validate")
# After the landmark, at most so much of the time of a mode=validate: about what begins there takes.
DELAYS = (1.0, 0.2, 0.2, 0.03, 0.2, 1.0)


def run(count: int, seed: int, folder: Path, straight: Path) -> list[Row]:
    begin = time.monotonic()
    validated = validate(straight, straight.parents[1] / "cache")
    campaign = Campaign(straight, validated, time.monotonic() - begin, random.Random(f"kills {seed}"))
    ended = Row("runs that were killed, at their end")
    # A run that is not killed once fails early: as many of them end the campaign.
    while (left := count - campaign.kills()) > 0 and ended.trials < count:
        place = folder / f"killed-{ended.trials}"
        shutil.copytree(straight.parents[1] / "dialogues", place / "dialogues")
        ended.try_out(lambda p=place, n=left: campaign.kill_until_end(p, n))
        if not ended.problems:  # else it is kept to be looked at
            shutil.rmtree(place)
    lost = campaign.lost
    ended.notes.append(
        f"{len(lost)} kills after the first save: {sum(lost)} updates repeated, at most {max(lost, default=0)} at once"
    )
    return [*campaign.rows.values(), ended]


class Campaign:
    """Kills runs and compares them with the straight one; `seconds` is what a mode=validate takes on this machine.

    `lost` has the updates that each kill cost.
    """

    def __init__(self, straight: Path, validated: dict[str, bytes], seconds: float, draw: random.Random):
        self.straight, self.validated, self.seconds, self.draw = straight, validated, seconds, draw
        self.rows = {part: Row(f"kill -9 in {part}") for part in PARTS}
        self.lost: list[int] = []

    def kills(self) -> int:
        return sum(row.trials for row in self.rows.values())

    def kill_until_end(self, place: Path, left: int) -> str | None:
        """Starts a run with a cold cache, kills it up to `left` times, and lets it end. Problems of a kill go to its row."""
        run, whole = place / "runs/run", 0
        moments = sorted(self.draw.choices(range(len(PARTS) - 1), k=min(left, self.draw.randint(1, 6))))
        for moment in (*moments, None):
            if not list(run.glob("weights/step-*")):  # killed before its first checkpoint: started again
                shutil.rmtree(place / "runs", ignore_errors=True)
                options, whole = tiny_options(place / "dialogues", place), 0
            else:
                options = resume_options(run)
            if moment == PARTS.index("cache building"):  # of the cache that is there nothing is written
                shutil.rmtree(place / "cache", ignore_errors=True)
            code, output = self.execute_and_kill(options, place, moment)
            newest = newest_step(run)
            problem = check_start(output, whole, newest) or find_traceback(output)
            if code == -signal.SIGKILL:
                self.rows[PARTS[moment]].add(problem)
            elif problem or code:
                return problem or f"exit code {code}: {output}"
            else:
                break
            whole = newest
            if whole:
                done = max((step + 1 for step, split in newest_rows(run) if split == "train"), default=0)
                self.lost.append(max(0, done - whole))
        self.kill_validation(place)
        return compare(run, self.straight) or find_leftovers(run, place / "cache")

    def execute_and_kill(self, options: list[str], place: Path, moment: int | None) -> tuple[int, str]:
        with command(options, place, place / "cache") as job:
            if moment is not None:
                delay = self.draw.uniform(0, DELAYS[moment] * self.seconds)
                wait(job, landmark(moment, place, self.draw), delay)
                kill(job)
            return job.ended(SECONDS)

    def kill_validation(self, place: Path) -> None:
        """Kills a mode=validate of the run; the next one writes what that of the straight run wrote."""
        run, row = place / "runs/run", self.rows["mode=validate"]
        code, output = self.execute_and_kill(validation_options(run), place, PARTS.index("mode=validate"))
        if code == -signal.SIGKILL:
            found = validate(run, place / "cache")
            row.add(find_traceback(output) or (None if found == self.validated else f"other replies: {sorted(found)}"))


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint that is published; 0 if there is none."""
    return max((int(path.name[5:13]) for path in run.glob("weights/step-*")), default=0)


def check_start(output: str, whole: int, newest: int) -> str | None:
    """Whether a resume started from the checkpoint of step `whole`, the newest one when its predecessor was killed, and
    left one as new there."""
    started = re.search(r", steps (\d+) to ", output)
    if started and int(started[1]) < whole:
        return f"resumed from step {started[1]} although step {whole} was saved"
    return f"step {whole} was saved, and now {newest} is the newest" if newest < whole else None


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
            return begins_to_write(place / "cache/dialog_trainer")
        case "training":
            return holds_after(f'"step": {draw.randrange(STEPS)}, ')
        case "save":
            step, begins = draw.randrange(STEPS), begins_to_write(run / "weights")
            return lambda: newest_step(run) >= step - 2 and begins()
        case "validation and generation":
            return holds_after(f'"step": {draw.choice((9, 19, 29))}, ')
    return lambda: True


def begins_to_write(folder: Path) -> Callable[[], bool]:
    """Whether a directory is being written there; what an earlier process left of one does not count."""
    before = set(folder.glob(".aside-*"))
    return lambda: not before.issuperset(folder.glob(".aside-*"))


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
    found = {path.name: path.read_bytes() for path in sorted(run.glob("*/**/replies*")) if path.is_file()}
    if not found:
        raise RuntimeError(f"mode=validate wrote no replies: {output}")
    return found
