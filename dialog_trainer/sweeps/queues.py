"""Where submitted jobs wait and run: Slurm, or this machine. submitit writes the script and hands it over.

Of submitit the executors alone are used: they turn settings into options of sbatch and start processes. What they run is a
command line and not a pickled function, which would bind the job to the versions of submitit and Python that submitted it,
and hide from its log what runs.

The name of a submitted job, as `sweep.json` has it: `slurm:<array>_<index>` or `local:<host>:<process>`.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dialog_trainer.errors import ConfigError
from dialog_trainer.screen import write_line

if TYPE_CHECKING:
    from submitit.core.core import PicklingExecutor

SECONDS = 60.0
# Of submitit's process on this machine.
_CONTROLLER = "submitit.local._local"


def submit_array(
    folder: Path, command: Sequence[str], count: int, settings: Mapping[str, Any], after: str | None
) -> list[str]:
    """Submits the `command`, to which its index is added, `count` times as one array of Slurm; returns the names of the jobs.

    `after`: a submitted job; these start once it has ended with exit code 0, and are cancelled if it has not.
    Raises `ConfigError` where Slurm does not take it.
    """
    import submitit

    own = dict(settings)
    memory = own.pop("mem_gb")
    own |= {"time": own.pop("timeout_min"), "mem": None if memory is None else f"{round(1024 * memory)}M"}
    further = {"requeue": True, **(own.pop("additional_parameters") or {})}
    if after:
        own["dependency"] = f"afterok:{after.removeprefix('slurm:')}"
        further["kill-on-invalid-dep"] = "yes"
    try:
        executor = submitit.SlurmExecutor(folder)
        executor.update_parameters(
            **_drop_none(own),
            additional_parameters=further,
            # Since Slurm 22.05 a step does not inherit the cores of its job.
            srun_args=[f"--cpus-per-task={own['cpus_per_task']}"],
        )
        executor.parameters["map_count"] = count
        array = _hand_over(executor, f"{shlex.join(command)} $SLURM_ARRAY_TASK_ID")
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError([f"hydra/launcher=submitit_slurm: {_join_lines(error)}"]) from None
    return [f"slurm:{array}_{index}" for index in range(count)]


def start_here(folder: Path, command: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Starts a command as a process that outlives this one; returns the name of the job."""
    import submitit

    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(**_drop_none(settings))
    return f"local:{socket.gethostname()}:{_hand_over(executor, shlex.join(command))}"


def _hand_over(executor: PicklingExecutor, command: str) -> str:
    # The one way to have submitit run a command line. Its doc string warns that the job has no result, which is not read.
    return executor._submit_command(command).job_id


def _drop_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in settings.items() if value is not None
    }


def _join_lines(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def own_name() -> str:
    """The name of the submitted job that this process is."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"slurm:{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return f"local:{socket.gethostname()}:{os.environ['SUBMITIT_LOCAL_JOB_ID']}"


def log_name(submission: str) -> str:
    """The beginning of the names of the files in which submitit keeps what a job prints."""
    return f"{submission.rpartition(':')[2]}_0_log"


def find_live(submissions: Collection[str]) -> set[str] | None:
    """Those of the submitted jobs that wait or run; None where the queue cannot be seen. A process of another machine counts
    as running."""
    slurm = {name for name in submissions if name.startswith("slurm:")}
    live = {name for name in submissions if name not in slurm and _is_live_process(name)}
    if slurm:
        queue = _ask(["squeue", "--me", "--array", "--noheader", "--format=%i"])
        if queue is None:
            write_line("note: squeue does not answer: jobs that were submitted count as queued or running", sys.stderr)
            return None
        live |= slurm & {f"slurm:{line.strip()}" for line in queue.splitlines()}
    return live


def requeue(submission: str) -> bool:
    """Has Slurm start this job once more; not where it is being cancelled."""
    name = submission.removeprefix("slurm:")
    if (
        name == submission
        or (_ask(["squeue", "--noheader", f"--jobs={name}", "--format=%T"]) or "").strip() != "RUNNING"
    ):
        return False
    return _ask(["scontrol", "requeue", name]) is not None


def _is_live_process(submission: str) -> bool:
    _, host, process = submission.split(":")
    return host != socket.gethostname() or _CONTROLLER in (_ask(["ps", "-o", "args=", "-p", process]) or "")


def _ask(command: list[str]) -> str | None:
    """What a command prints; None where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return None
