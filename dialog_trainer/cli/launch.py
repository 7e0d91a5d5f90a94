"""Runs a job in this process, in spawned workers, or as one rank of a torchrun or Slurm job."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Sequence
from functools import cache
from typing import NoReturn
from urllib.parse import urlsplit

from rich.console import Console

from dialog_trainer.config.checks import count_processes, find_process_errors, needs_hub
from dialog_trainer.config.job import Job
from dialog_trainer.config.options import Settings
from dialog_trainer.distributed.environment import RankInfo
from dialog_trainer.errors import ConfigError

# Set before torch makes its first tensor. Deterministic CUDA kernels need the first; with the second, large CPU tensors
# start at multiples of 2 MiB, in pages of that size: 0.1 to 0.3 of 4.7 GB less is lost between them at 124 M.
READ_BY_TORCH = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "THP_MEM_ALLOC_ENABLE": "1"}
# Without a reachable hub its client retries for a minute; a connection attempt first lets it use its cache, or fail, at once.
CONNECT_SECONDS = 3.0
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
# torch and what needs it are imported in the functions: a configuration error is reported before that.


def rendezvous(rank_info: RankInfo):
    """The control control of the torchrun or Slurm job that this process is a rank of."""
    from dialog_trainer.distributed.launcher import open_environment_store

    return open_environment_store(rank_info)


def run_job(job: Job, control=None, arguments: Sequence[str] = ()) -> int:
    """Runs a job and returns the exit code; as a rank of `control`, which was started elsewhere, ends the process.

    `arguments` are those of the command line: the same on all ranks.
    """
    world_size = control.rank_info.size if control else count_processes(job.settings)
    errors = find_process_errors(job.settings, world_size, started=control is not None)
    if errors:
        raise ConfigError(errors)
    if control:
        from dialog_trainer.distributed.failures import run_as_rank

        control.put("job", job.text())
        run_as_rank(control, lambda: _run_in_group(control, job.text(), arguments), prints=True)
    if world_size == 1:
        return _run(job)
    from dialog_trainer.distributed.launcher import launch_local

    return launch_local(world_size, job.settings["port"], _run_in_group, job.text())


def follow_rank0(control, arguments: list[str]) -> NoReturn:
    """The part of every rank but 0: it waits for the job that rank 0 composed."""
    from dialog_trainer.distributed.failures import run_as_rank

    run_as_rank(control, lambda: _run_in_group(control, control.wait("job"), arguments), prints=True)


def report_failure(control, exit_code: int) -> None:
    """Informs the other ranks that rank 0, which has printed why, has no job for them."""
    from dialog_trainer.distributed.store import Failure

    control.report(Failure(0, "", exit_code))


def _run_in_group(control, text: str, arguments: Sequence[str] = ()) -> int:
    from dialog_trainer.distributed import collectives
    from dialog_trainer.training.reproducibility import collect_versions

    job = Job.of(text)
    with collectives.join_process_group(control, job.settings["distributed_timeout_seconds"]):
        collectives.assert_same_on_all_ranks(
            collect_versions() | {"arguments": " ".join(arguments)}, "start all with the same program and options"
        )
        return _run(job)


def _run(job: Job) -> int:
    console = _set_up_process(job.settings)
    from dialog_trainer.cli.commands import chat, inspect, resume, train, validate
    from dialog_trainer.distributed import collectives

    if not collectives.is_rank0():
        console.quiet = True
    match job.settings["mode"]:
        case "inspect":
            return inspect.inspect_mask(job.settings, console)
        case "train":
            return train.train_new_run(job, console)
        case "resume":
            return resume.resume_run(job, console)
        case "validate":
            return validate.validate_run(job, console)
        case _:
            return chat.chat_with_run(job.settings)


def _set_up_process(settings: Settings) -> Console:
    if needs_hub(settings):
        go_offline_if_unreachable()
    for name, value in READ_BY_TORCH.items():
        os.environ.setdefault(name, value)
    _import_commands()
    from dialog_trainer.model.kernels.malloc import keep_freed_memory

    _silence_libraries()
    keep_freed_memory()
    return Console(file=sys.stdout)


def go_offline_if_unreachable() -> None:
    """Sets `HF_HUB_OFFLINE` if the hub cannot be reached. Called before its client is imported."""
    if "HF_HUB_OFFLINE" in os.environ or any(os.environ.get(name) for name in PROXIES):
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _silence_libraries() -> None:
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


@cache  # once a process: what a job of a sweep leaves behind must be collected
def _import_commands() -> None:
    """Imports what needs torch without garbage collection: to look through the objects of modules, which stay to the end,
    took a sixth of the import time, and a second when the process ends."""
    gc.disable()
    from dialog_trainer.cli.commands import chat, inspect, resume, train, validate  # noqa: F401

    gc.freeze()
    gc.enable()
