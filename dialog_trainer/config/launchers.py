"""The settings of `hydra/launcher=`: where the jobs of a sweep run. They are Hydra's, and no part of a run's configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainValidator

from dialog_trainer.config.fields import Count, CountOr0, Positive, Record, Text, Texts, Words, setting
from dialog_trainer.config.frozen import FrozenMapping
from dialog_trainer.config.table import settings
from dialog_trainer.errors import ConfigError


def _read_options(value: Any) -> FrozenMapping:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
        raise ValueError("is not a dict of options")
    if not all(_is_plain(item) for item in value.values()):
        raise ValueError("has a value that is no text or number")
    return FrozenMapping(value)


def _is_plain(value: Any) -> bool:
    return (isinstance(value, str) and "\n" not in value) or (isinstance(value, int | float) and math.isfinite(value))


SbatchOptions = Annotated[
    FrozenMapping,
    PlainValidator(_read_options),
    Words("a dict of options of sbatch and their values, as {reservation: night, exclusive: true}"),
]


class LocalLauncherConfig(Record):
    n_jobs: Count = setting("Jobs at a time, which share the threads and the GPUs of the machine.")


class SubmititLocalConfig(Record):
    timeout_min: Count = setting("Minutes after which a job is stopped, with a checkpoint half a minute before.")
    cpus_per_task: Count = setting("CPU threads of a job, which is its option threads.")
    gpus_per_node: CountOr0 | None = setting(
        "GPUs of a job: each one gets the same, counted from 0. null: none, on the CPU."
    )
    setup: Texts | None = setting("Lines for the shell before a job. null: none.")


class SubmititSlurmConfig(Record):
    partition: Text | None = setting("Partition. null: that of the cluster.")
    account: Text | None = setting("Account that is charged. null: that of the user.")
    qos: Text | None = setting("Quality of service. null: that of the cluster.")
    timeout_min: Count = setting(
        "Time limit of a job in minutes. A longer run is saved 90 seconds before, and goes on as Slurm starts it again."
    )
    cpus_per_task: Count = setting("CPU cores of a job, which is its option threads.")
    gpus_per_node: CountOr0 | None = setting("GPUs of a job. null: none is asked for.")
    mem_gb: Positive | None = setting("Memory of a job in GB. null: what the cluster gives.")
    array_parallelism: Count = setting("Jobs of an array that run at a time.")
    additional_parameters: SbatchOptions | None = setting("Further options of sbatch. null: none.")
    setup: Texts | None = setting("Lines for the shell before a job, as [module load cuda]. null: none.")


LAUNCHERS: dict[str, type[Record]] = {
    "local": LocalLauncherConfig,
    "submitit_local": SubmititLocalConfig,
    "submitit_slurm": SubmititSlurmConfig,
}


def check_launcher(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The checked settings of a launcher. Raises `ConfigError` with each one that is out of range."""
    checked, errors = {}, []
    for key, one in settings(LAUNCHERS[name], "hydra.launcher.").items():
        short = key.removeprefix("hydra.launcher.")
        try:
            checked[short] = one.validate(values.get(short))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError(errors)
    return checked
