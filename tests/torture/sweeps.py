"""kill -9 of sweeps and of their jobs, damage to what they keep, links in their folders, a disk that becomes full.

The same command goes on until it is done; then each job equals that of a sweep to which nothing happened, bit for bit.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.processes import Started, descendants, forked, wait_while_there

from dialog_trainer.cli.commands.verify_resume import compare_runs
from dialog_trainer.sweeps.record import SWEEP_FILE, read_sweep
from tests.helpers.sweeps import run_sweep_command
from tests.torture.damage import DAMAGE, choose
from tests.torture.disk import can_mount, mounted
from tests.torture.kills import wait
from tests.torture.trials import SECONDS, Row, count_broken_lines, digest, find_leftovers, find_traceback, tiny_options

STEPS = 12
# Two trunks: the first job shares nothing; the last one keeps branches at updates 6 and 9, from which the others fork.
SWITCHES = (0, 0.5, 0.75, 1)
MOMENTS = ("start", "training", "branch", "fork")
VICTIMS = ("the sweep", "a job", "all processes")
SECRET = "precious\n"
# What a stranger could put in the place of something that a sweep writes.
LINKS = (
    SWEEP_FILE,
    "logs",
    "logs/003",
    "failed",
    "001",
    "003",
    "003/branches",
    "report.html",
    "figures",
    ".sweep.json",
)


def run(count: int, seed: int, folder: Path, straight: Path) -> list[Row]:
    """`count` trials with kills, and a fifth of all the others."""
    draw = random.Random(f"sweeps {seed}")
    campaign = Campaign(folder, straight.parents[1])
    rows = {victim: Row(f"kill -9 of {victim}") for victim in VICTIMS}
    for number in range(count):
        place = folder / f"killed-{number}"
        victim = VICTIMS[number % len(VICTIMS)]
        rows[victim].try_out(lambda p=place, v=victim: campaign.kill(p, v, draw))
    for victim, kills in campaign.kills.items():
        rows[victim].notes.append(f"{kills} kills")
    stopped = campaign.stop_half_way(folder / "stopped")
    files = [
        SWEEP_FILE,
        *sorted(path.relative_to(stopped).as_posix() for path in stopped.glob("*/branches/**/*") if path.is_file()),
    ]
    damaged = Row("damaged: sweep.json, branches")
    for file, kind in choose(files[:1], min(100, 8 * count), draw) + choose(files[1:], max(1, count // 2), draw):
        damaged.try_out(lambda f=file, k=kind: campaign.damage(folder / "damaged", stopped, f, k, draw))
    linked = Row("links in the folder of a sweep")
    for name in LINKS:
        linked.try_out(lambda n=name: campaign.link(folder / "linked", stopped, n))
    full = Row("a full disk in the middle of a sweep")
    if can_mount(folder / "mount"):
        for number in range(max(1, count // 5)):
            full.try_out(lambda n=number: campaign.fill(folder / f"full-{n}", draw))
    return [*rows.values(), damaged, linked, full]


def sweep_options(dialogues: Path, project: Path) -> list[str]:
    options = [one for one in tiny_options(dialogues, project) if not one.startswith(("project=", "steps="))]
    return [
        "-m", *options, f"project='{project}'", f"steps={STEPS}", "validate_every_n_steps=6", "hydra.launcher.n_jobs=2",
        f"train_user_turn_mask_step={','.join(map(str, SWITCHES))}",
    ]  # fmt: skip


class Campaign:
    """Sweeps in `<place>/run`, which are compared with that of `straight`; `kills` counts those of each kind of victim."""

    def __init__(self, folder: Path, source: Path):
        self.dialogues, self.cache = source / "dialogues", source / "cache"
        self.kills = dict.fromkeys(VICTIMS, 0)
        place = folder / "straight"
        begin = time.monotonic()
        code, output = self.execute(place)
        self.seconds = time.monotonic() - begin
        if code:
            raise RuntimeError(f"the sweep without a fault ended with {code}: {output}")
        self.straight = {job.digest: place / "run" / job.name for job in read_sweep(place / "run").jobs}

    @contextmanager
    def command(self, place: Path) -> Iterator[Started]:
        place.mkdir(parents=True, exist_ok=True)
        options = sweep_options(self.dialogues, place)
        with forked(options, place, entry=run_sweep_command, XDG_CACHE_HOME=str(self.cache)) as job:
            yield job

    def execute(self, place: Path) -> tuple[int, str]:
        with self.command(place) as job:
            return job.ended(SECONDS)

    def compare(self, sweep: Path) -> str | None:
        """The first difference of a finished sweep; a job is known by the digest of its settings."""
        jobs = {job.digest: job for job in read_sweep(sweep).jobs}
        for key, straight in self.straight.items():
            if key not in jobs or jobs[key].status != "done":
                return f"{straight.name} is {jobs[key].status if key in jobs else 'missing'}"
            run = sweep / jobs[key].name
            problem = next(iter(compare_runs(straight, run)), None) or find_leftovers(run)
            broken = count_broken_lines(run)
            if problem or broken:
                return f"{run.name}: {problem or f'{broken} lines cannot be parsed'}"
        return find_leftovers(sweep / "logs")

    def finish(self, place: Path) -> str | None:
        """Goes on until the end, as a user would, and compares; what is right must not fail once."""
        code, output = self.execute(place)
        problem = find_traceback(output + read_logs(place / "run"))
        if code or problem:
            return f"exit code {code}: {problem or output}"
        return self.compare(place / "run")

    def kill(self, place: Path, victim: str, draw: random.Random) -> str | None:
        """Kills the same sweep up to three times, then lets it end."""
        for _ in range(draw.randint(1, 3)):
            with self.command(place) as job:
                wait(job, landmark(draw.choice(MOMENTS), place / "run", draw), draw.uniform(0, self.seconds / 8))
                problem = self.strike(job, victim, place, draw)
            if problem:
                return problem
        problem = self.finish(place)
        if not problem:
            shutil.rmtree(place)
        return problem

    def strike(self, job: Started, victim: str, place: Path, draw: random.Random) -> str | None:
        """Sends SIGKILL, and waits until nothing is left of the command."""
        jobs = sorted(descendants(job.pid))
        pids = {
            "the sweep": [job.pid],
            "a job": [draw.choice(jobs)] if jobs else [],
            "all processes": [job.pid, *jobs],
        }[victim]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                self.kills[victim] += pid == pids[0]
            except ProcessLookupError:
                continue
        code, output = job.ended(SECONDS)
        if victim == "a job" and code not in (0, 1):
            return f"a job was killed, and the sweep ended with {code}: {output}"
        if victim != "a job" and code not in (0, -signal.SIGKILL):
            return f"exit code {code}: {output}"
        if left := wait_while_there(set(jobs), 60):
            return f"processes {left} outlive the sweep"
        if (place / "run" / SWEEP_FILE).exists():
            read_sweep(place / "run")  # it is whole at each moment
        return find_traceback(output)

    def stop_half_way(self, place: Path) -> Path:
        """The folder of a sweep that was stopped once it had kept its branches."""
        sweep = place / "run"
        with self.command(place) as job:
            job.until(lambda: list(sweep.glob("003-*/branches/step-00000009")), "branches")
            os.kill(job.pid, signal.SIGTERM)
            code, output = job.ended(SECONDS)
        if code != 75:
            raise RuntimeError(f"stopped with exit code {code}: {output}")
        return sweep

    def damage(self, place: Path, stopped: Path, file: str, kind: str, draw: random.Random) -> str | None:
        """The command after one file was damaged: it ends equal, or it names the place and changes nothing."""
        sweep = renew(place, stopped)
        others = sorted(path for path in stopped.rglob(Path(file).name) if path != stopped / file and path.is_file())
        DAMAGE[kind](sweep / file, others[0] if others else stopped / file, draw)
        before = contents(sweep)
        code, output = self.execute(place)
        problem = find_traceback(output + read_logs(sweep))
        if not problem and code == 2:
            problem = None if contents(sweep) == before and str(sweep) in output else f"exit code 2: {output}"
        elif not problem:
            problem = self.compare(sweep) if code == 0 else f"exit code {code}: {output}"
        return f"{file}, {kind}: {problem}" if problem else None

    def link(self, place: Path, stopped: Path, name: str) -> str | None:
        """A link leads out of the sweep, to a file or to what lay in its place, as the run of somebody: these stay as they are."""
        sweep, outside = renew(place, stopped), place / "outside"
        found = next(iter(sorted(sweep.glob(name.replace("/", "*/") + "*"))), sweep / name)
        if found.is_dir():
            found.rename(outside)
        else:
            found.unlink(missing_ok=True)
            outside.write_text(SECRET)
        found.symlink_to(outside)
        before = contents(outside)
        code, output = self.execute(place)
        problem = find_traceback(output + read_logs(sweep))
        if contents(outside) != before:
            problem = f"what it leads to has changed: {output}"
        elif code not in (0, 1, 2):
            problem = f"exit code {code}: {output}"
        return f"{name}: {problem}" if problem else None

    def fill(self, place: Path, draw: random.Random) -> str | None:
        """A disk that becomes full under some job: with room again the command goes on from what the others have done."""
        disk = place / "disk"
        disk.mkdir(parents=True)
        needed = sum(path.stat().st_size for run in self.straight.values() for path in run.rglob("*") if path.is_file())
        with mounted(disk, int(needed * draw.uniform(0.2, 0.9))) as give_room:
            code, output = self.execute(disk)
            problem = find_traceback(output + read_logs(disk / "run"))
            if problem or code not in (0, 1, 2):
                return f"exit code {code}: {problem or output}"
            give_room()
            return self.finish(disk)


def renew(place: Path, stopped: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(stopped, place / "run", symlinks=True)


def contents(path: Path) -> dict[str, str]:
    """The digests of all files of a folder, or of a file."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(one): digest(one) for one in files if one.is_file() and not one.is_symlink()}


def read_logs(sweep: Path) -> str:
    return "".join(path.read_text("utf-8", "replace") for path in sorted(sweep.glob("logs/*.log")) if path.is_file())


def landmark(moment: str, sweep: Path, draw: random.Random) -> Callable[[], bool]:
    """What must have happened before something is killed."""
    saved = f"*/weights/step-{draw.randrange(2, STEPS, 2):08d}"
    pattern = {"start": "*", "training": saved, "branch": "003-*/branches/*", "fork": "00[12]-*"}[moment]
    return lambda: any(sweep.glob(pattern))
