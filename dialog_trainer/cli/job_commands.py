"""The command lines of a sweep's jobs: what a user would type for each by itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dialog_trainer.cli.overrides import quote_text, read_override
from dialog_trainer.cli.saved_config import read_saved
from dialog_trainer.config.machine import PER_MACHINE
from dialog_trainer.config.schema import Config
from dialog_trainer.errors import CheckpointError
from dialog_trainer.screen import write_line
from dialog_trainer.sweeps.attempt import Start
from dialog_trainer.sweeps.plan import ComposedJob
from dialog_trainer.sweeps.record import JobRecord

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
    """Makes the command of a job; `jobs` are those that were composed, by their number.

    `precision=auto` and `threads=null` are decided by the first job that starts, for all: else a run on a machine that is
    busy, or another one, could not be compared.
    """

    def __init__(self, folder: Path, jobs: Mapping[int, ComposedJob], config_dir: str | None):
        self._folder, self._jobs = folder, jobs
        # As `dialog-trainer` does: the current folder is searched for code only where Python does so here too.
        safe = [] if {"", os.getcwd()} & set(sys.path) and not sys.flags.safe_path else ["-P"]
        self.python = [sys.executable, *safe, "-m"]
        self._flags = ["--config-dir", config_dir] if config_dir else []
        self._defaults: dict[str, object] = {}
        self._decided: dict[str, object] = {}

    def set_default_threads(self, threads: int) -> None:
        """`threads` of jobs where neither the user nor an earlier job has decided."""
        self._defaults = {"threads": threads}

    def make(self, job: JobRecord, start: Start) -> list[str]:
        return [*self.python, "dialog_trainer", *self.make_arguments(job, start)]

    def make_arguments(self, job: JobRecord, start: Start) -> list[str]:
        """The command line without the program."""
        composed = self._jobs[job.index]
        keep = [f"sweep.keep_at=[{','.join(map(str, start.keep_at))}]"] if start.keep_at else []
        if start.resumes:
            run = quote_text(self._folder / job.name)
            again = [line for line in composed.overrides if line.partition("=")[0] in _TYPED_AGAIN]
            allowed = composed.config.allow_targets
            allow = [f"allow_targets=[{','.join(map(quote_text, allowed))}]"] if allowed else []
            resume = ["mode=resume", f"resume_model_dir={run}", "load_model_type=last"]
            return [*resume, *again, *allow, *keep]
        fork = [f"sweep.fork_from={quote_text(start.fork_from)}"] if start.fork_from else []
        decided = [f"{key}={value}" for key, value in self.decide(composed.config).items()]
        place = [f"project={quote_text(self._folder)}", f"name={job.name}"]
        return [*self._flags, *composed.overrides, *decided, *place, *keep, *fork]

    def make_report(self, with_figures: bool) -> list[str]:
        """The command of the report on the sweep."""
        figures = [] if with_figures else ["figures.enabled=false"]
        return [*self.python, "dialog_trainer", "mode=report", f"runs={quote_text(self._folder)}", *figures]

    def decide(self, config: Config) -> dict[str, object]:
        """What the first job has decided and this one leaves open; nothing where this one is the first."""
        open_keys = [key for key, value in (("precision", "auto"), ("threads", None)) if getattr(config, key) == value]
        for path in sorted(self._folder.glob("[0-9]*/args.yaml")) if open_keys and not self._decided else ():
            with suppress(CheckpointError):
                saved = read_saved(path.parent)
                self._decided = {key: saved[key] for key in open_keys if saved.get(key) is not None}
                write_line(
                    f"for all jobs, as {path.parent.name}: {' '.join(f'{k}={v}' for k, v in self._decided.items())}"
                )
                break
        decided = {**self._defaults, **self._decided}
        return {key: decided[key] for key in open_keys if key in decided}
