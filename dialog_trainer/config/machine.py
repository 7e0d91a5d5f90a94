"""What a configuration needs of a machine: processes, a C++ compiler, the hub. No torch."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from dialog_trainer.config.groups import DataConfig
from dialog_trainer.config.paths import is_hub_id
from dialog_trainer.config.schema import Config

# What of a configuration is of the machine, not of the run: a saved run does not bring it along. Nor a list of devices.
PER_MACHINE = ("processes", "port", "data.workers", "data.cache_dir")


def launch_options(config: Config) -> list[str]:
    """What to type once more on a resume, so that it starts as many processes."""
    if isinstance(config.device, tuple):
        return [f'"device=[{",".join(map(str, config.device))}]"']
    return [f"processes={config.processes}"] if config.processes > 1 else []


def count_processes(config: Config) -> int:
    """How many processes a command starts; only training and validating can share their work."""
    if not config.command.shares_work:
        return 1
    return len(config.device) if isinstance(config.device, tuple) else config.processes


def find_process_errors(config: Config, size: int, started: bool) -> list[str]:
    """What does not go with `size` processes, which were `started` by torchrun or Slurm, or are still to be started."""
    found: list[str] = []
    trains = config.command.trains
    if started and not config.command.shares_work:
        found.append(f"mode={config.mode}: works in one process; start it without torchrun or srun")
    if started and config.processes not in (1, size):
        found.append(f"processes={config.processes}: {size} processes were started; leave it at 1")
    if not started and config.processes > 1 and size > 1 and config.device not in ("auto", "cpu"):
        device = list(config.device) if isinstance(config.device, tuple) else config.device
        found.append(
            f"processes={config.processes}: is for the CPU only; with device={device} one process runs per listed GPU"
        )
    if trains and size > config.batch_size:
        found.append(f"batch_size={config.batch_size}: {size} processes share a batch, so it must be at least {size}")
    if size > 1 and config.parallel == "fsdp" and trains:
        if config.precision == "fp16":
            found.append("precision=fp16: not with parallel=fsdp; use precision=bf16")
        if config.mask_schedule.alignment_every_n_steps:
            found.append("mask_schedule.alignment_every_n_steps: not with parallel=fsdp; use parallel=ddp")
    return found


def missing_compiler() -> str | None:
    """What torch.compile lacks on this machine, and the package that has it; None if nothing."""
    if os.name != "posix":  # torch looks for another compiler there, and names what it lacks
        return None
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler}; install the package {Path(compiler).name}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return f"there is no Python.h; install the package python{sysconfig.get_python_version()}-dev"
    return None


def needs_hub(config: Config) -> bool:
    """Whether a new run names a model, or any command that needs dialogues a data set, that is not on this machine."""
    model, command = config.model.pretrained_model, config.command
    if not command.needs_data:
        return False
    model_from_hub = not command.works_on_saved_run and model is not None and not os.path.exists(model)
    return model_from_hub or any(map(is_hub_id, _data_places(config.data)))


def _data_places(data: DataConfig) -> Sequence[str]:
    """What may be an id of the hub among the options of the data."""
    given = data.arguments
    if data.target.endswith("sources.DailyDialog"):
        return [given["hub_id"]] if given.get("path") is None else []
    if data.target.endswith("sources.Mixture"):
        return given["sources"] or []
    return [given["id"]] if data.target.endswith("sources.Hub") else []
