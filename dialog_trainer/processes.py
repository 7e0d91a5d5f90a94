"""In how many processes a job is done: here, in some that are started for it, or in a group that torchrun or Slurm made."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import NoReturn

from rich.console import Console

from dialog_trainer import checks, hub
from dialog_trainer.distributed.environment import Member
from dialog_trainer.errors import ConfigError
from dialog_trainer.job import Job
from dialog_trainer.options import Settings

# What is to be set before torch makes its first tensor. Deterministic kernels of CUDA ask for the first; with the second,
# large tensors on the CPU begin at multiples of 2 MiB, in pages of that size, and 0.1 to 0.3 of 4.7 GB less is lost
# between them at 124 M.
READ_BY_TORCH = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "THP_MEM_ALLOC_ENABLE": "1"}
# torch and what needs it are imported in the functions: a fault in the options should be told at once.


def meet(member: Member):
    """The board of the group that this process was started in."""
    from dialog_trainer.distributed.launch import environment_board

    return environment_board(member)


def begin(job: Job, board=None, arguments: Sequence[str] = ()) -> int:
    """Does a job and returns the exit code; in the group of `board`, which was started elsewhere, ends the process.

    `arguments` are those of the command line: alike in a group.
    """
    size = board.member.size if board else checks.count_processes(job.settings)
    faults = checks.group_faults(job.settings, size, started=board is not None)
    if faults:
        raise ConfigError(faults)
    if board:
        from dialog_trainer.distributed.faults import take_part

        board.put("job", job.text())
        take_part(board, lambda: _in_group(board, job.text(), arguments), tells=True)
    if size == 1:
        return _work(job)
    from dialog_trainer.distributed.launch import locally

    return locally(size, job.settings["port"], _in_group, job.text())


def follow(board, arguments: list[str]) -> NoReturn:
    """The part of a process that is not the main one: it gets the job from there."""
    from dialog_trainer.distributed.faults import take_part

    take_part(board, lambda: _in_group(board, board.wait("job"), arguments), tells=True)


def failed(board, code: int) -> None:
    """Tells the others that the main process, which has said why, has no job for them."""
    from dialog_trainer.distributed.group import Fault

    board.tell(Fault(0, "", code))


def _in_group(board, text: str, arguments: Sequence[str] = ()) -> int:
    from dialog_trainer.distributed import group
    from dialog_trainer.modes.exactness import versions

    job = Job.of(text)
    with group.joined(board, job.settings["distributed_timeout_seconds"]):
        group.check_alike(
            versions() | {"arguments": " ".join(arguments)}, "start all with the same program and options"
        )
        return _work(job)


def _work(job: Job) -> int:
    console = _before_torch(job.settings)
    from dialog_trainer.distributed import group
    from dialog_trainer.modes import chatting, inspecting, training, validating

    if not group.is_main():
        console.quiet = True
    settings = job.settings
    match settings["mode"]:
        case "inspect":
            return inspecting.run(settings, console)
        case "train":
            return training.start(job, console)
        case "resume":
            return training.resume(job, console)
        case "validate":
            return validating.run(job, console)
        case _:
            return chatting.run(settings)


def _before_torch(settings: Settings) -> Console:
    if checks.needs_hub(settings):
        hub.offline_if_unreachable()
    for name, value in READ_BY_TORCH.items():
        os.environ.setdefault(name, value)
    _import_modes()
    from dialog_trainer.freed_memory import keep_freed_memory
    from dialog_trainer.modes.quiet import hush_libraries

    hush_libraries()
    keep_freed_memory()
    return Console(file=sys.stdout)


@cache  # once a process: what a job of a sweep leaves behind must be collected
def _import_modes() -> None:
    """The objects of modules stay to the end: that they are looked through for garbage took a sixth of the time of their
    import, and a second when the process ends."""
    gc.disable()
    from dialog_trainer.modes import chatting, inspecting, training, validating  # noqa: F401

    gc.freeze()
    gc.enable()
