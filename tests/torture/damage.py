"""Damages every file of a checkpoint and of a cache in every way: it is found and told, or the result is the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.torture.trials import (
    STEPS,
    Row,
    command,
    compare,
    execute,
    find_traceback,
    kill,
    resume,
    tiny_options,
    write_dialogues,
)

# Damages a file; `other` is the file of that name of another run.
Damage = Callable[[Path, Path, random.Random], object]


def flip(path: Path, other: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def zero(path: Path, other: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content))
    content[start : start + 64] = bytes(len(content[start : start + 64]))
    path.write_bytes(content)


def swap(path: Path, other: Path, draw: random.Random) -> None:
    content = other.read_bytes()
    path.write_bytes(content if content != path.read_bytes() else content + b"x")  # some files are alike in all runs


def link_away(path: Path, other: Path, draw: random.Random) -> None:
    elsewhere = path.with_name(f"{path.name}.moved")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replace_by(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path, other: Path, draw: random.Random) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGE: dict[str, Damage] = {
    "flipped bit": flip,
    "cut": lambda path, other, draw: os.truncate(path, draw.randrange(path.stat().st_size)),
    "emptied": lambda path, other, draw: os.truncate(path, 0),
    "appended": lambda path, other, draw: path.write_bytes(path.read_bytes() + draw.randbytes(draw.randint(1, 99))),
    "zeros": zero,
    "deleted": lambda path, other, draw: path.unlink(),
    "another run's": swap,
    "link": link_away,
    "named pipe": replace_by(os.mkfifo),
    "directory": replace_by(Path.mkdir),
}


def run(count: int, seed: int, folder: Path, straight: Path) -> list[Row]:
    """`count` is a percentage of all pairs of a file and a kind of damage."""
    other = train_other(folder / "other")
    stopped = train_half(folder / "stopped", straight.parents[1])
    step = max(path.name for path in stopped.glob("weights/step-*"))
    newest = [f"weights/{step}/{name}" for name in files_of(stopped / "weights" / step)]
    views = [f"weights/last/{name}" for name in files_of(stopped / "weights/last")]
    entries = files_of(straight.parents[1] / "cache/dialog_trainer")
    rows = []
    for name, targets, trial in (
        ("newest checkpoint", newest, damage_checkpoint),
        ("weights/last, next to it", views, damage_checkpoint),
        ("cache", entries, damage_cache),
    ):
        row = Row(f"damaged: {name}")
        for file, kind in choose(targets, count, random.Random(f"{name} {seed}")):
            draw = random.Random(f"{file} {kind} {seed}")
            row.try_out(lambda t=trial, f=file, k=kind, d=draw: t(folder, straight, other, f, k, d))
        rows.append(row)
    return rows


def choose(files: list[str], percent: int, draw: random.Random) -> list[tuple[str, str]]:
    """So many of the pairs of file and kind of damage; at least one."""
    pairs = [(file, kind) for file in files for kind in DAMAGE]
    return draw.sample(pairs, max(1, len(pairs) * percent // 100))


def train_other(folder: Path) -> Path:
    """A run of another seed on other dialogues."""
    dialogues = write_dialogues(folder / "dialogues", seed=1000)
    code, output = execute([*tiny_options(dialogues, folder), "seed=7"], folder, folder / "cache")
    if code:
        raise RuntimeError(output)
    return folder / "runs/run"


def train_half(folder: Path, source: Path) -> Path:
    """A run that was stopped in the middle, with the dialogues and the cache of `source`."""
    folder.mkdir(parents=True)
    run = folder / "runs/run"
    with command(tiny_options(source / "dialogues", folder), folder, source / "cache") as job:
        job.row(run / "metrics.jsonl", STEPS // 2)
        kill(job, signal.SIGTERM)
        code, output = job.ended()
    if code != 75:
        raise RuntimeError(f"stopped with exit code {code}: {output}")
    return run


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def damage_checkpoint(
    folder: Path, straight: Path, other: Path, file: str, kind: str, draw: random.Random
) -> str | None:
    """Resumes a copy of a run in which one file is damaged; it ends as the straight run does, and says what it found."""
    place = folder / "trial"
    shutil.rmtree(place, ignore_errors=True)
    run = place / "runs/run"
    shutil.copytree(folder / "stopped/runs/run", run)
    before = (run / file).read_bytes()
    DAMAGE[kind](run / file, other / "weights/last" / Path(*Path(file).parts[2:]), draw)
    code, output = resume(run, straight.parents[1] / "cache")
    what = f"{file}, {kind}"
    if code:
        return f"{what}: exit code {code}: {output}"
    told = "is damaged" in output and Path(file).name in output
    used = file.startswith("weights/step-")
    same = (run / file).is_file() and (run / file).read_bytes() == before
    if used and not told and not same:
        return f"{what}: not told: {output}"
    problem = find_traceback(output) or compare(run, straight)
    return f"{what}: {problem}: {output}" if problem else None


def damage_cache(folder: Path, straight: Path, other: Path, file: str, kind: str, draw: random.Random) -> str | None:
    """Trains with a copy of the cache in which one file is damaged."""
    place = folder / "trial"
    shutil.rmtree(place, ignore_errors=True)
    source = straight.parents[1]
    shutil.copytree(source / "cache", place / "cache")
    path = place / "cache/dialog_trainer" / file
    others = sorted((other.parents[1] / "cache/dialog_trainer").glob(f"{path.parent.name.split('-')[0]}-*/{path.name}"))
    DAMAGE[kind](path, others[0], draw)
    code, output = execute(tiny_options(source / "dialogues", place), place, place / "cache")
    what = f"{file}, {kind}"
    if code:
        return f"{what}: exit code {code}: {output}"
    if "is built again" not in output and path.parent.name not in output:
        return f"{what}: not told: {output}"
    problem = find_traceback(output) or compare(place / "runs/run", straight)
    return f"{what}: {problem}: {output}" if problem else None
