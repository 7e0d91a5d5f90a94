"""The jobs of a sweep, from the configurations that were composed: their names, and which of them an earlier command of the
same sweep has recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from dialog_trainer.amounts import format_duration
from dialog_trainer.config.frozen import thaw
from dialog_trainer.config.machine import PER_MACHINE
from dialog_trainer.config.paths import with_absolute_data_paths
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import settings, show
from dialog_trainer.config.versions import absent_values
from dialog_trainer.errors import ConfigError
from dialog_trainer.files import sha256_of_texts
from dialog_trainer.sweeps.record import JobRecord, SweepRecord

MAX_NAME = 100
# What another value of a choice of these groups changes may lie in any other group.
_GLOBAL_GROUPS = ("experiment", "debug", "runtime", "model", "data", "sweep.list")
_NO_PART = ("project", "name", *PER_MACHINE)


@dataclass(frozen=True, slots=True)
class ComposedJob:
    """A job as it was composed: its overrides, those that it shares with others included, and its configuration."""

    overrides: tuple[str, ...]
    config: Config


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """`record` is that of the sweep with the jobs of this command added; `jobs` are those of the command, by their number in
    the record."""

    record: SweepRecord
    jobs: Mapping[int, ComposedJob]

    @property
    def left(self) -> list[JobRecord]:
        """The jobs of this command that are neither done nor submitted."""
        return [
            job for job in self.record.jobs if job.index in self.jobs and job.status != "done" and not job.submission
        ]

    @property
    def submitted(self) -> list[JobRecord]:
        """The jobs of this command that wait or run where an earlier one has submitted them."""
        return [job for job in self.record.jobs if job.index in self.jobs and job.submission]


def plan_sweep(composed: Sequence[ComposedJob], known: SweepRecord | None, command: str, created: str) -> SweepPlan:
    """Adds the composed jobs to what is `known` of the sweep, None for a new one.

    Raises `ConfigError` with each setting that is another one for all jobs, and each job that is there twice.
    """
    shared = _shared_overrides(composed)
    identities = [identify(job.config) for job in composed]
    digests = [digest_settings(identity) for identity in identities]
    swept = list(dict.fromkeys(_key(line) for job in composed for line in job.overrides if line not in shared))
    common = _common(identities)
    errors = _find_twins(composed, digests, shared)
    if known:
        swept = list(dict.fromkeys([*known.swept, *swept]))
        errors += _find_changes(known.settings, common, swept)
        common = _common([known.settings, common])
    if errors:
        raise ConfigError(errors)
    records = {job.digest: job for job in known.jobs} if known else {}
    jobs: dict[int, ComposedJob] = {}
    for job, digest in zip(composed, digests, strict=True):
        if digest not in records:
            index = len(records)
            own = tuple(line for line in job.overrides if line not in shared)
            name = name_job(index, own)
            records[digest] = JobRecord(index=index, name=name, overrides=own, digest=digest, steps=job.config.steps)
        jobs[records[digest].index] = job
    record = SweepRecord(
        schema_version=1,
        created=known.created if known else created,
        command=command,
        overrides=tuple(line for line in composed[0].overrides if line in shared),
        swept=tuple(swept),
        settings=common,
        jobs=tuple(records.values()),
    )
    return SweepPlan(record, dict(sorted(jobs.items())))


def identify(config: Config) -> dict[str, Any]:
    """The settings that make a run what it is, by dotted key: without where it lies, the command and the machine."""
    absolute = Config.from_dict(with_absolute_data_paths(config.to_dict()))
    known = settings(Config)
    return {
        key: value
        for key, value in absolute.flat().items()
        if key not in _NO_PART and not (key in known and known[key].meta.per_command)
    }


def digest_settings(values: Mapping[str, Any]) -> str:
    """The identity of a run. An option that says what its absence means is left out: it may have come with a later version."""
    absent = absent_values(Config)
    said = {key: value for key, value in values.items() if key not in absent or value != thaw(absent[key])}
    return sha256_of_texts(json.dumps(said, sort_keys=True))[:16]


def name_job(index: int, own: Sequence[str]) -> str:
    """The folder of a job: `003-train_user_turn_mask_step_0.25-seed_1`; Hydra reads it unquoted."""
    parts = [re.sub(r"[^A-Za-z0-9_.+]+", "_", line.lstrip("+")).strip("_.+") for line in own]
    return "-".join([f"{index:03d}", *filter(None, parts)])[:MAX_NAME].rstrip("-_.")


def describe_work(plan: SweepPlan) -> str:
    """The jobs and what they cost, in complete runs where all are equally long: `15 jobs, 10.5 runs' worth of steps`."""
    jobs = [plan.record.jobs[index] for index in plan.jobs]
    done, submitted = sum(job.status == "done" for job in jobs), len(plan.submitted)
    parts = [f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}"]
    if done == len(jobs):
        return f"{parts[0]}, all of them done"
    parts += [f"{done} of them done"] if done else []
    parts += [f"{submitted} of them submitted"] if submitted else []
    if not plan.left:
        return ", ".join(parts)
    left = sum(count_steps_left(job) for job in plan.left)
    lengths = {job.steps for job in jobs}
    if len(lengths) == 1:
        runs = left / lengths.pop()
        parts.append(f"{runs:.3g} {'run' if runs == 1 else 'runs'}' worth of steps".replace("run' ", "run's "))
    else:
        parts.append(f"{left:,} steps")
    seconds = estimate_seconds(plan)
    parts.append("the time is known after the first job" if seconds is None else f"about {format_duration(seconds)}")
    return ", ".join(parts)


def count_steps_left(job: JobRecord) -> int:
    """Updates that a job still makes itself."""
    return job.steps - max(job.steps_done, job.forked_from_step or 0)


def estimate_seconds(plan: SweepPlan) -> float | None:
    """Time of what is left, one job after the other, from the jobs of the sweep that are done; None without one."""
    done = [job for job in plan.record.jobs if job.status == "done"]
    steps = sum(job.steps_done - (job.forked_from_step or 0) for job in done)
    if not steps:
        return None
    return sum(map(count_steps_left, plan.left)) * sum(job.seconds for job in done) / steps


def _shared_overrides(composed: Sequence[ComposedJob]) -> set[str]:
    """The overrides of all jobs."""
    return reduce(set.intersection, (set(job.overrides) for job in composed))


def _key(line: str) -> str:
    return line.lstrip("+").partition("=")[0]


def _common(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all trees say alike."""
    first, *others = trees
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}


def _find_changes(before: Mapping[str, Any], after: Mapping[str, Any], swept: Sequence[str]) -> list[str]:
    """The settings that all jobs of the sweep had, and all jobs of this command have otherwise."""
    if any(key in _GLOBAL_GROUPS for key in swept):
        return []
    before = {**thaw(absent_values(Config)), **before}  # options that came after the sweep was begun
    return [
        f"{key}: {show(before[key])} in this sweep -> {show(after[key])}: it is the same for all its jobs; sweep over it "
        f"({key}={show(before[key])},{show(after[key])}), or give the new sweep a name of its own (name=<other>)"
        for key in before
        if key in after and before[key] != after[key] and not any(f"{key}.".startswith(f"{one}.") for one in swept)
    ]


def _find_twins(composed: Sequence[ComposedJob], digests: Sequence[str], shared: set[str]) -> list[str]:
    errors: list[str] = []
    first: dict[str, int] = {}
    for number, (job, digest) in enumerate(zip(composed, digests, strict=True)):
        if digest in first:
            own = " ".join(line for line in job.overrides if line not in shared) or "none"
            errors.append(f"jobs {first[digest]} and {number} would be the same run (overrides of their own: {own}); leave one out")  # fmt: skip
        first.setdefault(digest, number)
    return errors
