"""The group that this process is in: sums, agreements, and what one process prints all. One process is a group of one.

Every function that speaks of all processes is called by all of them, in the same order. What decides how a run goes on
is agreed upon or comes from the main process (rank 0), which alone writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from dialog_trainer.distributed.store import ControlStore
from dialog_trainer.errors import DistributedError

T = TypeVar("T")


# The control of the group that this process is in, and how far it is.
_control: ControlStore | None = None
_place = "before the first step"


@contextmanager
def join_process_group(control: ControlStore, timeout_seconds: float) -> Iterator[None]:
    """In the group of all processes of `control`, which must come within the timeout; no later exchange may take longer.

    The group is not taken down: its processes end with it.
    """
    global _control
    rank_info = control.rank_info
    if torch.cuda.is_available():
        torch.cuda.set_device(rank_info.local_rank % torch.cuda.device_count())
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, count_cores() // rank_info.local_size))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo",
        store=dist.PrefixStore("group", control.store),
        rank=rank_info.rank,
        world_size=rank_info.size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    _control = control
    yield


def count_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    return _control.rank_info.local_rank if _control else 0


def local_size() -> int:
    return _control.rank_info.local_size if _control else 1


def is_rank0() -> bool:
    return rank() == 0


def set_position(place: str) -> None:
    """How far this process is, for the message of a failure."""
    global _place
    _place = place


def position() -> str:
    return _place


def local_rank0_first() -> AbstractContextManager[None]:
    """For what leaves files in a cache: the first process of each machine goes first."""
    return _control.local_rank0_first() if _control else contextlib.nullcontext()


def stop_seen(own: bool) -> bool:
    """`own`, or that of another process as far as is known: to be asked often, by each process when it likes."""
    return _control.stop_seen(own) if _control else own


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def all_gather_rows(values: torch.Tensor) -> torch.Tensor:
    """`(size, *)`: the `values`, of one shape, of each process. What is made of them is bit for bit the same in each."""
    if not dist.is_initialized():
        return values.unsqueeze(0)
    rows = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(rows, values)
    return torch.stack(rows)


def all_reduce_max(value: float) -> float:
    return float(all_gather_rows(torch.tensor([value], dtype=torch.float64)).max())


def any_rank(holds: bool) -> bool:
    return all_reduce_max(float(holds)) > 0


def all_gather_objects(value: T) -> list[T]:
    """What each process gives, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_from_rank0(make: Callable[[], T]) -> T:
    """What the main process makes; the others do not make it."""
    if not dist.is_initialized():
        return make()
    box = [make() if is_rank0() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def assert_same_on_all_ranks(parts: Mapping[str, str], remedy: str) -> None:
    """Raises `DistributedError` in every process if one of `parts` is not the same in all."""
    all_parts = all_gather_objects(dict(parts))
    unlike = [name for name in parts if len({found.get(name) for found in all_parts}) > 1]
    if unlike:
        lines = [
            f"  {name}: " + ", ".join(f"{found.get(name)} (rank {rank})" for rank, found in enumerate(all_parts))
            for name in unlike
        ]
        raise DistributedError("\n".join([f"the processes differ; {remedy}:", *lines]))
