"""Shares the threads and the GPUs of a machine among jobs that run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dialog_trainer.distributed.environment import count_cores
from dialog_trainer.errors import ConfigError


def share_machine(n_jobs: int, devices: Iterable[object]) -> list[dict[str, str]]:
    """What the environment of each of `n_jobs` jobs has besides; `devices` are the values of `device` of all jobs.

    A job gets one GPU, or as many as its list of devices has. Raises `ConfigError` where they do not go round.
    """
    if n_jobs == 1:
        return [{}]
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, count_cores() // n_jobs))}
    lists = [one for one in devices if isinstance(one, tuple)]
    size = max(map(len, lists), default=1)
    bad = [one for one in lists if sorted(one) != list(range(len(one)))]
    if bad:
        raise ConfigError(
            [
                f"device={list(bad[0])}: with hydra.launcher.n_jobs={n_jobs} each job gets GPUs of its own, which it counts "
                f"from 0; write device={list(range(len(bad[0])))}, and choose among GPUs by CUDA_VISIBLE_DEVICES"
            ]
        )
    gpus = list_gpus()
    if lists and n_jobs * size > len(gpus):
        raise ConfigError(
            [f"hydra.launcher.n_jobs={n_jobs}: jobs of {size} GPUs each need {n_jobs * size}; there are {len(gpus)}"]
        )
    if not gpus:
        return [dict(threads) for _ in range(n_jobs)]
    shares = [[gpus[(slot * size + one) % len(gpus)] for one in range(size)] for slot in range(n_jobs)]
    return [{**threads, "CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def list_gpus() -> list[str]:
    """The GPUs that a process may use, as CUDA_VISIBLE_DEVICES names them; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(driver.iterdir())))] if driver.is_dir() else []
