"""Rank and rendezvous address of this process, from the environment of torchrun or Slurm, and its cores. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# Ports for Slurm, which names none: two jobs on one machine get different ones.
_FIRST_PORT, _PORTS = 20_000, 20_000


@dataclass(frozen=True, slots=True)
class RankInfo:
    """`rank` of `size` processes; `local_rank` of the `local_size` ranks on this `machine` (its index)."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    machine: int


def detect_rank(environ: Mapping[str, str] = os.environ) -> RankInfo | None:
    """None where this process belongs to no group."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environ.keys():  # torchrun, or set by hand
        rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        local_rank, local_size = int(environ.get("LOCAL_RANK", 0)), int(environ.get("LOCAL_WORLD_SIZE", 1))
        machine = int(environ.get("GROUP_RANK", rank - local_rank))
    elif (
        "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ
    ):  # only srun sets both, a batch script does not
        rank, size = int(environ["SLURM_PROCID"]), int(environ["SLURM_STEP_NUM_TASKS"])
        local_rank = int(environ.get("SLURM_LOCALID", 0))
        machine = int(environ.get("SLURM_NODEID", 0))
        local_size = parse_tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))[machine]
    else:
        return None
    return RankInfo(rank, size, local_rank, local_size, machine) if size > 1 else None


def parse_tasks_per_node(tasks: str) -> list[int]:
    """Slurm's tasks of each node: `3,2(x2)` -> `[3, 2, 2]`."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks):
        counts += [int(count)] * int(times or 1)
    return counts


def rendezvous_address(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port of rank 0. Slurm names neither: the first host of the step, and a port derived from the job."""
    job = int(environ.get("SLURM_JOB_ID", 0)) * 31 + int(environ.get("SLURM_STEP_ID", 0))
    host = environ.get("MASTER_ADDR") or first_host(environ.get("SLURM_STEP_NODELIST", "localhost"))
    return host, int(environ.get("MASTER_PORT", _FIRST_PORT + job % _PORTS))


def first_host(nodes: str) -> str:
    """The first host of Slurm's node list: `gpu[003-010,12],login` -> `gpu003`."""
    prefix, brackets, suffix = re.findall(r"([^,\[]*)(?:\[([^\]]*)\])?([^,]*)", nodes)[0]
    return str(prefix + re.split(r"[-,]", brackets)[0] + suffix)


def count_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
