"""Runs the jobs of a sweep, each in a process of its own, and keeps `sweep.json`. A job that fails does not stop the others."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dialog_trainer.errors import CheckpointError
from dialog_trainer.screen import printable
from dialog_trainer.signals import EXIT_CODES
from dialog_trainer.sweeps.attempt import Start, choose_start, log_of, record_end
from dialog_trainer.sweeps.forks import branch_of, branch_steps, remove_unneeded_branches
from dialog_trainer.sweeps.job_folder import StepCounter, can_resume
from dialog_trainer.sweeps.processes import MAX_LINE, Process, forward_stops, read_notes, send_to_all, start_process
from dialog_trainer.sweeps.progress import SweepProgress, describe_end
from dialog_trainer.sweeps.record import JobRecord, SweepRecord, write_sweep

POLL_SECONDS = 0.1
RECORD_EVERY_SECONDS = 5.0
# The command line of a job.
MakeCommand = Callable[[JobRecord, Start], Sequence[str]]


@dataclass(slots=True)
class _Running:
    process: Process
    slot: int
    counter: StepCounter
    since: float


class SweepRunner:
    """Runs the jobs of `asked`, by number, of a sweep whose folder this process has locked."""

    def __init__(
        self,
        folder: Path,
        record: SweepRecord,
        asked: Sequence[int],
        make_command: MakeCommand,
        progress: SweepProgress,
        max_seconds: float | None = None,
    ):
        self.folder, self.record = folder, record
        self._make_command, self._progress = make_command, progress
        self._end = None if max_seconds is None else time.monotonic() + max_seconds
        self._asked = tuple(asked)
        roots = {job.forked_from for job in record.jobs}
        jobs = [job for job in record.jobs if job.index in self._asked and job.status != "done"]
        # Those first that others wait for.
        self._waiting = [job.index for job in sorted(jobs, key=lambda job: (job.name not in roots, job.index))]
        self._processes: dict[int, Process] = {}
        self._running: dict[int, _Running] = {}
        self._steps_before = {job.index: job.steps_done for job in record.jobs}
        self._prepared = False
        self._noted = set[int]()  # jobs that have said what they understood
        self._recorded = 0.0
        self._unwritten = False

    def run(self, environments: Sequence[Mapping[str, str]]) -> int:
        """Runs as many jobs at a time as there are `environments`; returns the exit code of the sweep."""
        free = list(range(len(environments)))
        out_of_time = False
        with forward_stops(self._processes) as received:
            write_sweep(self.folder, self.record)
            while True:
                while free and not received and not out_of_time and (index := self._next()) is not None:
                    if self._try_to_start(index, free[0], environments[free[0]]):
                        free.pop(0)
                if not self._running:
                    break
                time.sleep(POLL_SECONDS)
                for index in [one for one, running in self._running.items() if running.process.poll() is not None]:
                    free.append(self._running[index].slot)
                    self._finish(index, bool(received) or out_of_time)
                self._show()
                if self._end is not None and time.monotonic() >= self._end and not out_of_time:
                    out_of_time = True
                    self._progress.line("sweep.max_hours is over: all jobs stop with a checkpoint")
                    send_to_all(self._processes, signal.SIGTERM)
        write_sweep(self.folder, self.record)
        if received:
            return EXIT_CODES[received[0]]
        ends = {job.status for job in self.record.jobs if job.index in self._asked}
        return 75 if out_of_time and ends != {"done"} else 1 if "failed" in ends else 75 if "stopped" in ends else 0

    def _next(self) -> int | None:
        """The job to start now; None where all others wait, or none is left."""
        if self._running and not self._prepared:  # the first one reads and tokenizes the data for all
            return None
        for index in self._waiting:
            job = self.record.jobs[index]
            root = next((one.index for one in self.record.jobs if one.name == job.forked_from), None)
            coming = root is not None and (root in self._running or root in self._waiting)
            if not coming or branch_of(self.folder, job) or can_resume(self.folder / job.name):
                self._waiting.remove(index)
                return index
        return None

    def _try_to_start(self, index: int, slot: int, environment: Mapping[str, str]) -> bool:
        """Whether a job was started; one that cannot be is recorded as failed, and the others go on."""
        try:
            self._start(index, slot, environment)
        except (CheckpointError, OSError) as error:
            failed = {"status": "failed", "exit_code": 2, "error": printable(str(error))[:MAX_LINE]}
            job = self.record.jobs[index].model_copy(update=failed)
            self._replace(job)
            self._progress.line(f"{job.name}: {describe_end(self.folder, job)}")
            return False
        return True

    def _start(self, index: int, slot: int, environment: Mapping[str, str]) -> None:
        job = self.record.jobs[index]
        start, begun = choose_start(
            self.folder, job, branch_steps(self.folder, self.record.jobs, job), self._progress.line
        )
        process = start_process(self._make_command(begun, start), self.folder, log_of(job), environment)
        done = begun.steps_done
        self._processes[index] = process
        self._running[index] = _Running(process, slot, StepCounter(self.folder / job.name, done), time.monotonic())
        self._steps_before[index] = done
        self._replace(begun)
        how = "goes on" if start.resumes else f"forks from {job.forked_from}" if start.fork_from else "starts"
        number = f"[{len(self._asked) - len(self._waiting)}/{len(self._asked)}]"
        self._progress.line(f"{number} {job.name} {how}" + (f" at step {done:,}" if done else ""))

    def _finish(self, index: int, stopping: bool) -> None:
        running = self._running.pop(index)
        del self._processes[index]
        counted = self.record.jobs[index].model_copy(update={"steps_done": running.counter.count()})
        seconds = time.monotonic() - running.since
        job = record_end(self.folder, counted, running.process.poll() or 0, seconds, stopping)
        self._replace(job)
        self._prepared = True
        remove_unneeded_branches(self.folder, self.record.jobs)
        self._progress.notes(job.name, read_notes(self.folder, log_of(job)))
        self._progress.line(f"{job.name}: {describe_end(self.folder, job)}")

    def _show(self) -> None:
        """Counts the updates of the running jobs, and records them now and then."""
        counted = {index: one.counter.count() for index, one in self._running.items()}
        for index in counted.keys() - self._noted:
            job = self.record.jobs[index]
            if (self.folder / job.name / "args.yaml").exists():
                self._prepared = True
                self._noted.add(index)
                self._progress.notes(job.name, read_notes(self.folder, log_of(job)))
        now = time.monotonic()
        if now - self._recorded >= RECORD_EVERY_SECONDS:
            self._recorded = now
            self.record = self.record.with_jobs(
                self.record.jobs[index].model_copy(update={"steps_done": done}) for index, done in counted.items()
            )
            self._write()
        asked = [self.record.jobs[index] for index in self._asked]
        steps_done = {job.index: counted.get(job.index, job.steps_done) for job in asked}
        left = sum(
            job.steps - max(steps_done[job.index], job.forked_from_step or 0) for job in asked if job.end is None
        )
        made = sum(done - self._steps_before[index] for index, done in steps_done.items())
        self._progress.show(len(self._running), left, max(0, made))

    def _replace(self, job: JobRecord) -> None:
        self.record = self.record.with_jobs([job])
        self._write()

    def _write(self) -> None:
        """Writes the record. A full disk stops no job: the next change is written with all before it."""
        try:
            write_sweep(self.folder, self.record)
            self._unwritten = False
        except OSError as error:
            if not self._unwritten:
                self._progress.line(f"note: {error.filename} cannot be written now: {error.strerror}")
            self._unwritten = True
