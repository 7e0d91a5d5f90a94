"""A disk that becomes full, at many sizes: one message, nothing half made, and an equal run once there is room.

A tmpfs where this process may mount one; else a limit of the size of each file.
"""

from __future__ import annotations

import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.processes import forked, run_command

from tests.torture.trials import (
    SECONDS,
    Row,
    compare,
    execute,
    find_leftovers,
    find_traceback,
    resume_options,
    tiny_options,
)

MIN_BYTES = 12 * 2**10
ROOM = "64m"


def run(count: int, seed: int, folder: Path, straight: Path) -> list[Row]:
    draw = random.Random(f"disk {seed}")
    source = straight.parents[1]
    needed = sum(path.stat().st_size for path in (*(source / "runs").rglob("*"), *(source / "cache").rglob("*")))
    mounts = can_mount(folder / "mount")
    row = Row("a tmpfs of random size" if mounts else "a random limit of the size of files (no right to mount)")
    largest = needed if mounts else 2**17
    # Even on a logarithmic scale: as many for the small files at the start as for checkpoints.
    for index in range(count):
        part = (index + draw.random()) / count
        size = int(MIN_BYTES * (largest / MIN_BYTES) ** part)
        place = folder / f"disk-{index}"
        place.mkdir()
        row.try_out(lambda p=place, s=size: fill(p, s, straight, source / "dialogues", mounts))
    return [row]


def fill(place: Path, size: int, straight: Path, dialogues: Path, mounts: bool) -> str | None:
    disk = place / "disk"
    disk.mkdir()
    options = tiny_options(dialogues, disk)
    with mounted(disk, size) if mounts else unlimited() as give_room:
        with forked((*(() if mounts else (size,)), *options), place, **entry_of(mounts, disk)) as job:
            code, output = job.ended(SECONDS)
        what = f"{size:,} bytes"
        if code not in (0, 1, 2):
            return f"{what}: exit code {code}: {output}"
        problem = find_traceback(output) or find_leftovers(disk)
        if not problem and code and not any(word in output for word in ("No space left", "File too large", "is full")):
            problem = "no message names the reason"
        if problem:
            return f"{what}: {problem}: {output}"
        give_room()
        run = disk / "runs/run"
        if code:
            if any(run.glob("weights/step-*")):
                options = resume_options(run)
            else:
                shutil.rmtree(disk / "runs", ignore_errors=True)
            code, output = execute(options, place, disk / "cache")
        problem = f"exit code {code}" if code else compare(run, straight)
    return f"{what}: with room again: {problem}: {output}" if problem else None


def entry_of(mounts: bool, disk: Path) -> dict:
    cache = {"XDG_CACHE_HOME": str(disk / "cache")}
    return cache if mounts else {"entry": run_limited, **cache}


def run_limited(size: int, *options: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run_command(*options)


def can_mount(folder: Path) -> bool:
    folder.mkdir()
    try:
        with mounted(folder, 2**16):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def mounted(folder: Path, size: int) -> Iterator:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", f"remount,size={ROOM}", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def unlimited() -> Iterator:
    """The limit of a size of files goes with its process."""
    yield lambda: None
