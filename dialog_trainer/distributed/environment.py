"""The place that torchrun or Slurm gives this process in a group. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# Where Slurm names no port: one that two jobs of a machine do not share.
_FIRST_PORT, _PORTS = 20_000, 20_000


@dataclass(frozen=True, slots=True)
class RankInfo:
    """`rank` of `size` processes; `local_rank` of `local_size` on this one of the machines."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    machine: int


def detect_rank(environ: Mapping[str, str] = os.environ) -> RankInfo | None:
    """None where this process stands alone."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environ.keys():  # torchrun, or by hand
        rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        local_rank, local_size = int(environ.get("LOCAL_RANK", 0)), int(environ.get("LOCAL_WORLD_SIZE", 1))
        machine = int(environ.get("GROUP_RANK", rank - local_rank))
    elif "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ:  # set by srun alone, not in a batch script
        rank, size = int(environ["SLURM_PROCID"]), int(environ["SLURM_STEP_NUM_TASKS"])
        local_rank = int(environ.get("SLURM_LOCALID", 0))
        machine = int(environ.get("SLURM_NODEID", 0))
        local_size = parse_tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))[machine]
    else:
        return None
    return RankInfo(rank, size, local_rank, local_size, machine) if size > 1 else None


def parse_tasks_per_node(nodes: str) -> list[int]:
    """`3,2(x2)` -> `[3, 2, 2]`: the tasks of each node."""
    found = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", nodes):
        found += [int(count)] * int(times or 1)
    return found


def rendezvous_address(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port of rank 0. Slurm names neither: the first host of the step, and a port that follows from the job."""
    job = int(environ.get("SLURM_JOB_ID", 0)) * 31 + int(environ.get("SLURM_STEP_ID", 0))
    host = environ.get("MASTER_ADDR") or first_host(environ.get("SLURM_STEP_NODELIST", "localhost"))
    return host, int(environ.get("MASTER_PORT", _FIRST_PORT + job % _PORTS))


def first_host(nodes: str) -> str:
    """`gpu[003-010,12],login` -> `gpu003`."""
    head, bracket, rest = re.match(r"([^,\[]*)(\[[^\]]*\])?([^,]*)", nodes).groups()
    return head + (re.split(r"[-,]", bracket[1:-1])[0] if bracket else "") + rest
