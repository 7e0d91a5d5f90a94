"""Runs a job in this process, in spawned workers, or as one rank of a torchrun or Slurm job."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from dialog_trainer.cli.waiting import choose_waiting
from dialog_trainer.config.commands import Command
from dialog_trainer.config.job import Job
from dialog_trainer.config.machine import count_processes, find_process_errors, needs_hub
from dialog_trainer.distributed.environment import RankInfo
from dialog_trainer.errors import ConfigError
from dialog_trainer.screen import announce_if_slow, write_line
from dialog_trainer.signals import raise_on_stop

if TYPE_CHECKING:
    from dialog_trainer.distributed.store import ControlStore
    from dialog_trainer.reporting.terminal import RunConsole

# Set before torch is imported. Deterministic CUDA kernels need the first; with the second, large CPU tensors start at
# multiples of 2 MiB, in pages of that size: 0.1 to 0.3 of 4.7 GB less is lost between them at 124 M.
READ_BY_TORCH = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "THP_MEM_ALLOC_ENABLE": "1"}
# Without a reachable hub its client retries for a minute; a connection attempt first lets it use its cache, or fail, at once.
CONNECT_SECONDS = 3.0
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
# torch and what needs it are imported in the functions: a configuration error is reported before that.


def rendezvous(rank_info: RankInfo) -> ControlStore:
    """The control store of the torchrun or Slurm job that this process is a rank of."""
    set_environment()
    if rank_info.rank == 0:
        _announce_import()
    from dialog_trainer.distributed.launcher import open_environment_store

    return open_environment_store(rank_info)


def set_environment() -> None:
    """Sets what torch and OpenMP read as they are loaded, here and in spawned processes, where the user has not."""
    for name, value in (READ_BY_TORCH | choose_waiting()).items():
        os.environ.setdefault(name, value)


def run_job(job: Job, store: ControlStore | None = None, arguments: Sequence[str] = ()) -> int:
    """Runs a job and returns the exit code; as a rank of `store`, which was started elsewhere, ends the process.

    `arguments` are those of the command line: the same on all ranks.
    """
    set_environment()
    world_size = store.rank_info.size if store else count_processes(job.config)
    errors = find_process_errors(job.config, world_size, started=store is not None)
    if errors:
        raise ConfigError(errors)
    if store:
        from dialog_trainer.distributed.failures import run_as_rank

        store.put("job", job.to_json())
        run_as_rank(store, lambda: _run_in_group(store, job.to_json(), arguments), prints=True)
    if world_size == 1:
        return _run(job)
    raise_on_stop()
    _announce_import()
    from dialog_trainer.distributed.launcher import launch_local

    return launch_local(world_size, job.config.port, _run_in_group, job.to_json())


def follow_rank0(store: ControlStore, arguments: list[str]) -> NoReturn:
    """The part of every rank but 0: it waits for the job that rank 0 composed."""
    from dialog_trainer.distributed.failures import run_as_rank

    run_as_rank(store, lambda: _run_in_group(store, store.wait("job"), arguments), prints=True)


def report_failure(store: ControlStore, exit_code: int) -> None:
    """Informs the other ranks that rank 0, which has printed why, has no job for them."""
    from dialog_trainer.distributed.store import Failure

    store.report(Failure(0, "", exit_code))


def _run_in_group(store: ControlStore, text: str, arguments: Sequence[str] = ()) -> int:
    from dialog_trainer.distributed import collectives
    from dialog_trainer.training.reproducibility import collect_versions

    job = Job.from_json(text)
    with collectives.join_process_group(store, job.config.distributed_timeout_seconds):
        collectives.assert_same_on_all_ranks(
            collect_versions() | {"arguments": " ".join(arguments)}, "start all with the same program and options"
        )
        return _run(job)


def _run(job: Job) -> int:
    if job.config.command.needs_torch:
        job, console = _set_up_torch(job)
    else:
        write_line(f"starting mode={job.config.mode} ...", sys.stderr)
        from dialog_trainer.reporting.terminal import open_console

        raise_on_stop()
        console = open_console()
    return job.config.command.load()(job, console)


def _set_up_torch(job: Job) -> tuple[Job, RunConsole]:
    """The job with its number of threads, and the console: quiet on all ranks but 0."""
    config = job.config
    if needs_hub(config):
        with announce_if_slow("looking for the hub, as the model or the data are not on this machine"):
            go_offline_if_unreachable()
    _announce_import()
    _import_command(config.command)
    from dialog_trainer.build.threads import set_threads
    from dialog_trainer.distributed import collectives
    from dialog_trainer.model.kernels.malloc import keep_freed_memory
    from dialog_trainer.reporting.console import make_printer
    from dialog_trainer.reporting.terminal import open_console

    _silence_libraries()
    keep_freed_memory()
    raise_on_stop()
    console = open_console()
    console.quiet = not collectives.is_rank0()
    return replace(job, config=set_threads(job, make_printer(console))), console


def _announce_import() -> None:
    """Says why the screen stays as it is for seconds; spawned processes have torch by then, and say nothing."""
    if "torch" not in sys.modules:
        write_line("importing torch and transformers ...", sys.stderr)


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
    import transformers

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when it is imported, if it is


@cache  # once a process: what a job of a sweep leaves behind must be collected
def _import_command(command: Command) -> None:
    """Imports what needs torch without garbage collection: to look through the objects of modules, which stay to the end,
    took a sixth of the import time, and a second when the process ends."""
    gc.disable()
    command.load()
    gc.freeze()
    gc.enable()
