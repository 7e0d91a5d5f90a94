"""The command lines of a sweep's jobs: what a user would type for each by itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dialog_trainer.cli.overrides import quote_text, read_override
from dialog_trainer.config.machine import PER_MACHINE
from dialog_trainer.sweeps.plan import ComposedJob
from dialog_trainer.sweeps.record import JobRecord
from dialog_trainer.sweeps.runner import Start

# What the sweep decides itself, and what belongs to Hydra.
_NOT_OF_A_JOB = ("project", "name")
# Options that a saved run does not bring along, so that a resume types them once more.
_TYPED_AGAIN = (*PER_MACHINE, "distributed_timeout_seconds")


def of_a_job(overrides: Sequence[str]) -> tuple[str, ...]:
    """Those overrides that a job is typed with: not where the sweep lies, how it is run, or what is Hydra's."""
    keys = {line: read_override(line).key_or_group for line in overrides}
    return tuple(
        line
        for line, key in keys.items()
        if key not in _NOT_OF_A_JOB and not key.startswith(("sweep.", "hydra.", "hydra/"))
    )


class JobCommands:
    """Makes the command of a job; `jobs` are those that were composed, by their number."""

    def __init__(self, folder: Path, jobs: Mapping[int, ComposedJob], config_dir: str | None):
        self._folder, self._jobs = folder, jobs
        # As `dialog-trainer` does: the current folder is searched for code only where Python does so here too.
        safe = [] if {"", os.getcwd()} & set(sys.path) and not sys.flags.safe_path else ["-P"]
        self._program = [sys.executable, *safe, "-m", "dialog_trainer"]
        self._flags = ["--config-dir", config_dir] if config_dir else []

    def make(self, job: JobRecord, start: Start) -> list[str]:
        composed = self._jobs[job.index]
        keep = [f"sweep.keep_at=[{','.join(map(str, start.keep_at))}]"] if start.keep_at else []
        if start.resumes:
            run = quote_text(self._folder / job.name)
            again = [line for line in composed.overrides if line.partition("=")[0] in _TYPED_AGAIN]
            allowed = composed.config.allow_targets
            allow = [f"allow_targets=[{','.join(map(quote_text, allowed))}]"] if allowed else []
            resume = ["mode=resume", f"resume_model_dir={run}", "load_model_type=last"]
            return [*self._program, *resume, *again, *allow, *keep]
        fork = [f"sweep.fork_from={quote_text(start.fork_from)}"] if start.fork_from else []
        place = [f"project={quote_text(self._folder)}", f"name={job.name}"]
        return [*self._program, *self._flags, *composed.overrides, *place, *keep, *fork]
