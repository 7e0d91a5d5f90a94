"""`sweep.json`: what a sweep is, and how far each of its jobs has come. The process that holds the sweep writes it; a report
may read it while the jobs run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import read_bounded, write_atomically

SWEEP_FILE = "sweep.json"
SCHEMA_VERSION = 1
MAX_BYTES = 2**25
Status = Literal["waiting", "queued", "running", "done", "failed", "stopped"]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Steps = Annotated[int, Field(ge=1, lt=2**63)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# One part of a path, which Hydra reads unquoted.
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}$")]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,64}$")]
_Submission = Annotated[str, StringConstraints(pattern=r"^(slurm:[0-9]+_[0-9]+|local:[A-Za-z0-9_.-]+:[0-9]+)$")]


class PlainRecord(BaseModel):
    """Strict types, immutable, no further key."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class JobRecord(PlainRecord):
    """One run of a sweep.

    Attributes:
        index: its number, from 0; kept when later commands add jobs.
        name: its run folder, below that of the sweep.
        overrides: what it was typed with besides what all jobs share, as `seed=1`.
        digest: identity of its settings; two jobs with the same one would be the same run.
        status: `queued`: submitted, not started; `failed`: ended with an error; `stopped`: by a signal, and will be resumed.
        exit_code, error: of its last end: 0 and None where it is done; `error` is one line.
        steps_done, steps: updates made, those before a fork included, and planned.
        end: `finished` or `stopped early`; None where it is not done.
        seconds: of its processes, all attempts together.
        tokens: that its updates have seen, those before a fork included.
        attempts: processes that were started for it.
        forked_from, forked_from_step: the job whose updates before this step it shares; None: trained all by itself.
        submission: its name in the queue, while it is submitted; see `sweeps.queues`.
        config_sha256: of its `args.yaml` when its last process ended; shows a change by hand.
    """

    index: _Count
    name: _Name
    overrides: tuple[str, ...]
    digest: _Digest
    status: Status = "waiting"
    exit_code: int | None = None
    error: str | None = None
    steps_done: _Count = 0
    steps: _Steps
    end: str | None = None
    seconds: _Seconds = 0.0
    tokens: _Count = 0
    attempts: _Count = 0
    forked_from: _Name | None = None
    forked_from_step: _Count | None = None
    submission: _Submission | None = None
    config_sha256: _Digest | None = None


class SweepRecord(PlainRecord):
    """A sweep.

    Attributes:
        created: time of its first command, in ISO 8601 with the offset from UTC.
        command: the last command line, as it can be typed again.
        overrides: what was typed for all jobs.
        swept: keys and groups with several values, in the order of the jobs' names.
        settings: by dotted key, the settings that all jobs share; another value of one of them is another sweep.
        jobs: in the order of their numbers.
    """

    schema_version: Literal[1]
    created: str
    command: str
    overrides: tuple[str, ...]
    swept: tuple[str, ...]
    settings: dict[str, Any]
    jobs: tuple[JobRecord, ...]

    @model_validator(mode="after")
    def _check_jobs(self) -> SweepRecord:
        names, digests = ({getattr(job, key) for job in self.jobs} for key in ("name", "digest"))
        if [job.index for job in self.jobs] != list(range(len(self.jobs))):
            raise ValueError("the jobs are not numbered 0, 1, 2 ...")
        if min(len(names), len(digests)) < len(self.jobs):
            raise ValueError("two jobs have one name or one digest")
        if any(job.forked_from not in (None, *names) for job in self.jobs):
            raise ValueError("a job forks from one that is not there")
        return self

    def with_jobs(self, changed: Iterable[JobRecord]) -> SweepRecord:
        """A copy in which these jobs take the places of those of their numbers."""
        jobs = {job.index: job for job in (*self.jobs, *changed)}
        return self.model_copy(update={"jobs": tuple(jobs.values())})


def read_sweep(folder: Path) -> SweepRecord:
    """The record in the folder of a sweep. Raises `CheckpointError` with file and field."""
    path = folder / SWEEP_FILE
    try:
        # By way of JSON, in which a tuple is a list.
        return SweepRecord.model_validate_json(read_bounded(folder, SWEEP_FILE, MAX_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(f"{path} is no record of a sweep: {place}: {first['msg']}") from None


def write_sweep(folder: Path, record: SweepRecord) -> None:
    """Replaces the record of a sweep, atomically."""
    write_atomically(folder, SWEEP_FILE, record.model_dump_json(indent=1) + "\n")
