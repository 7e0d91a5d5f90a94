"""Runs in processes of their own that are stopped by a signal at a chosen place, for mode=verify_resume."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from dialog_trainer.cli.guard import guard
from dialog_trainer.cli.launch import run_job
from dialog_trainer.config.job import Job
from dialog_trainer.errors import CheckpointError, TrainingError
from dialog_trainer.files import list_directory, remove_directory
from dialog_trainer.seeds import derive_seed
from dialog_trainer.signals import StopRequest, StopSignal, end_at_once_on_stop
from dialog_trainer.tracking.jsonl import read_rows_after
from dialog_trainer.training.checkpoint_directory import locate
from dialog_trainer.training.saved_state import SavedState, read_state

VALIDATIONS = 3
# Enough for a step of each place between two validations.
MIN_STEPS = 12
TRIES = 5
# A save of a tiny model takes some milliseconds.
POLL_SECONDS = 0.001
END_POLL_SECONDS = 0.05
# For a run to obey SIGTERM before it is killed.
GRACE_SECONDS = 10.0
OUTPUT_LINES = 15
# A fresh interpreter, as a resume has one.
PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Fault:
    """`number` is sent once update `step - 1` is done: at once (`step`), in the `validation` that follows, or while the
    checkpoint of that validation is written (`save`). With `before`, the run must have stopped before that step."""

    number: signal.Signals
    place: Literal["step", "validation", "save"]
    step: int
    before: int | None = None

    @property
    def name(self) -> str:
        return f"{self.number.name.lower()}-{self.place}"

    def __str__(self) -> str:
        where = {"step": "at", "validation": "in the validation at", "save": "in the save at"}[self.place]
        return f"{self.number.name} {where} step {self.step:,}"


def validation_every(steps: int) -> int:
    return -(-steps // VALIDATIONS)


def plan_faults(steps: int, switch: int | None, seed: int) -> list[Fault]:
    """The faults of runs that validate, and so save, every `validation_every(steps)` steps; drawn from `seed`.

    `switch`: the step at which the mask changes last, None without one. The run that SIGTERM stops at a step stops before
    it, where there is room, so that the resumed one crosses it; the one that SIGKILL stops has its checkpoint before it.
    """
    draw = random.Random(derive_seed("verify_resume", seed))
    first = validation_every(steps)
    second = 2 * first
    switch = switch if switch is not None and switch >= 4 else None
    terminated = draw.randint(1, (switch or steps) - 3)
    after = max(first, switch) if switch is not None and first <= switch < second - 2 else first
    killed = draw.randint(after + 1, second - 1)
    return [
        Fault(signal.SIGTERM, "step", terminated, before=switch),
        Fault(signal.SIGKILL, "step", killed),
        Fault(signal.SIGTERM, "validation", draw.choice([first, second])),
        Fault(signal.SIGKILL, "save", second),
    ]


def run_to_end(job: Job, output: Path, stop: StopSignal) -> None:
    """Runs a job in a process of its own, and appends what it prints to `output`. Raises `TrainingError` where it fails,
    `StopRequest` after a stop signal to this process."""
    with _start(job, output) as process:
        _wait(process, stop)
    if process.exitcode != 0:
        raise TrainingError(_describe_failure(process, output))


def run_until(fault: Fault, job: Job, output: Path, stop: StopSignal) -> SavedState:
    """Trains a new run until the fault, and returns the state from which it can be resumed; raises as `run_to_end`.

    A signal may come too late: then the run is made once more.
    """
    project, name = Path(job.parent), str(job.name)
    for _ in range(TRIES):
        with _start(job, output) as process:
            sent = _wait(process, stop, _place_of(fault, project / name))
            if sent:
                _send(process, project / name, fault.number)
                _wait(process, stop)
        if process.exitcode not in (0, 75) and not (sent and fault.number == signal.SIGKILL):
            raise TrainingError(_describe_failure(process, output))
        state = _state_after(fault, project / name) if process.exitcode else None
        if state is not None:
            return state
        remove_directory(project, name)
    raise TrainingError(
        f"{fault} came too late in {TRIES} runs: the steps are too short to stop at one; pass a larger batch_size"
    )


def _place_of(fault: Fault, run: Path) -> Callable[[], bool]:
    """A function that reads the files of the run: whether it has come to the fault."""
    offset, trained = 0, -1

    def reached() -> bool:
        nonlocal offset, trained
        with suppress(CheckpointError, FileNotFoundError):
            rows, offset = read_rows_after(run / "metrics.jsonl", offset)
            trained = max([trained, *(row["step"] for row in rows if row["split"] == "train")])
        return trained >= fault.step - 1 and (fault.place != "save" or _is_saving(run))

    return reached


def _is_saving(run: Path) -> bool:
    """Whether there is a part of a checkpoint: it gets its name once it is whole."""
    return any(name.startswith(".aside-") for name in list_directory(run, "weights"))


def _state_after(fault: Fault, run: Path) -> SavedState | None:
    """The state of the newest checkpoint; None where the files show that the signal came too late."""
    checkpoint = locate(run, "last")
    if checkpoint is None or (fault.place == "save" and not _is_saving(run)):
        return None
    state = read_state(run, checkpoint)
    missed = fault.place == "validation" and not (state.step == fault.step > state.validated_step)
    return None if missed or (fault.before is not None and state.step >= fault.before) else state


def _send(process: BaseProcess, run: Path, number: signal.Signals) -> None:
    """SIGTERM to the process that the user would stop; SIGKILL to all ranks, whose logs name their processes."""
    pids = [process.pid] if number == signal.SIGTERM else []
    for log in sorted(run.glob("logs/rank-*.log")) if number == signal.SIGKILL else ():
        pids += [int(pid) for pid in re.findall(r"^== .* process (\d+) on ", log.read_text("utf-8"), re.M)[-1:]]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid or 0, number)


@contextmanager
def _start(job: Job, output: Path) -> Iterator[BaseProcess]:
    """Starts a process that runs the job; it has ended when the block is left."""
    process = PROCESSES.Process(target=_run_child, args=(job.to_json(), str(output)))
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.terminate()
            process.join(GRACE_SECONDS)
            process.kill()
        process.join()


def _run_child(job: str, output: str) -> None:
    os.setsid()  # a terminal sends Ctrl-C to a whole session: the parent alone decides
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    end_at_once_on_stop()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    sys.exit(guard(lambda: run_job(Job.from_json(job))))


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _wait(process: BaseProcess, stop: StopSignal, reached: Callable[[], bool] | None = None) -> bool:
    """Whether `reached` came true before the process ended. Raises `StopRequest` after a stop signal to this process."""
    while process.is_alive():
        if stop.requested():
            raise StopRequest(stop.exit_code)
        if reached and reached():
            return True
        time.sleep(POLL_SECONDS if reached else END_POLL_SECONDS)
    return False


def _describe_failure(process: BaseProcess, output: Path) -> str:
    lines = output.read_text("utf-8", "replace").splitlines()[-OUTPUT_LINES:]
    return "\n".join([f"a run failed (exit code {process.exitcode}); the end of {output}:", *lines])
