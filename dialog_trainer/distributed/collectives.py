"""The process group: its collectives (sum, gather, broadcast), and the rank of this process. Alone, a group of one.

All ranks call a collective together, in the same order. What decides how a run continues is either reduced over all
ranks or broadcast from rank 0, so that all ranks decide alike. Only rank 0 writes files and prints.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # as `Store` in store.py

from dialog_trainer.distributed.environment import count_cores
from dialog_trainer.distributed.store import ControlStore
from dialog_trainer.errors import DistributedError

T = TypeVar("T")

# Of the group that this process is in, and how far the work is.
_control: ControlStore | None = None
_stage = "before the first step"


@contextmanager
def join_process_group(control: ControlStore, timeout_seconds: float) -> Iterator[None]:
    """Initializes the process group of all ranks of `control`, over gloo on CPU and NCCL on CUDA.

    No rendezvous or collective may take longer than the timeout. The group lives as long as the process.
    """
    global _control
    rank_info = control.rank_info
    if torch.cuda.is_available():
        torch.cuda.set_device(rank_info.local_rank % torch.cuda.device_count())
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, count_cores() // rank_info.local_size))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo",
        store=PrefixStore("group", control.store),
        rank=rank_info.rank,
        world_size=rank_info.size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    _control = control
    yield


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """The rank among the processes of this machine."""
    return _control.rank_info.local_rank if _control else 0


def local_size() -> int:
    """The number of ranks on this machine."""
    return _control.rank_info.local_size if _control else 1


def is_rank0() -> bool:
    return rank() == 0


def set_stage(stage: str) -> None:
    """Sets how far the work is (`step 7`), for the message of a failure."""
    global _stage
    _stage = stage


def current_stage() -> str:
    return _stage


def local_rank0_first() -> AbstractContextManager[None]:
    """A block that local rank 0 of each machine runs before its other ranks: for work that leaves files in a cache."""
    return _control.local_rank0_first() if _control else contextlib.nullcontext()


def stop_seen(requested: bool) -> bool:
    """Whether this rank (`requested`) or, as far as known, another one was asked to stop. No collective: cheap, and each
    rank may ask whenever it likes; ranks may get different answers for a moment."""
    return _control.stop_seen(requested) if _control else requested


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def all_gather_rows(values: torch.Tensor) -> torch.Tensor:
    """`(world size, *)`: the `values` of each rank, all of one shape. Bit for bit the same on all ranks."""
    if not dist.is_initialized():
        return values.unsqueeze(0)
    rows = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(rows, values)
    return torch.stack(rows)


def all_reduce_max(value: float) -> float:
    return float(all_gather_rows(torch.tensor([value], dtype=torch.float64)).max())


def any_rank(condition: bool) -> bool:
    """Whether the condition holds on at least one rank."""
    return all_reduce_max(float(condition)) > 0


def all_gather_objects(value: T) -> list[T]:
    """The value of each rank, in the order of the ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)


def broadcast_from_rank0(make: Callable[[], T]) -> T:
    """The result of `make()` on rank 0, on all ranks; the others do not call it."""
    if not dist.is_initialized():
        return make()
    box: list[T | None] = [make() if is_rank0() else None]
    dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


def assert_same_on_all_ranks(values: Mapping[str, str], remedy: str) -> None:
    """Raises `DistributedError` on all ranks if one of the named `values` differs between them."""
    rank_values = all_gather_objects(dict(values))
    differing = [name for name in values if len({found.get(name) for found in rank_values}) > 1]
    if differing:
        lines = [
            f"  {name}: " + ", ".join(f"{found.get(name)} (rank {rank})" for rank, found in enumerate(rank_values))
            for name in differing
        ]
        raise DistributedError("\n".join([f"the processes differ; {remedy}:", *lines]))
