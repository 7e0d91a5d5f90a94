"""The group that this process is in: sums, agreements, and what one process tells all. One process is a group of one.

Every function that speaks of all processes is called by all of them, in the same order. What decides how a run goes on
is agreed upon or comes from the main process (rank 0), which alone writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from dialog_trainer.distributed.environment import Member
from dialog_trainer.errors import DistributedError

T = TypeVar("T")
LOOK_EVERY_SECONDS = 0.5
ANSWER_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Fault:
    """What ended the work, told by process `rank`; its text has the remedy in it. `gone` are processes that ended before."""

    rank: int
    text: str
    exit_code: int
    gone: tuple[int, ...] = ()


class OtherProcessFailed(Exception):
    """Another process has told its fault: nothing is left to be said."""

    def __init__(self, fault: Fault):
        self.fault = fault
        super().__init__(fault.text)


class Board:
    """What the processes of a group tell each other beside the sums: it works while they start, and when one is gone."""

    def __init__(self, store: dist.Store, member: Member):
        self.store, self.member = store, member
        self._stop_seen, self._looked = False, 0.0
        self._turns = 0

    def put(self, key: str, value: str) -> None:
        self.store.set(key, value)

    def wait(self, key: str) -> str:
        """The value under `key`, however long it takes. Raises `OtherProcessFailed`."""
        while not self.store.check([key]):
            self.raise_if_told()
            time.sleep(0.05)
        return self.store.get(key).decode("utf-8")

    def tell(self, fault: Fault) -> bool:
        """Whether this fault was the first to be told."""
        text = json.dumps(asdict(fault))
        return self.store.compare_set("fault", "", text).decode("utf-8") == text

    def told(self) -> Fault | None:
        return read_fault(self.store)

    def raise_if_told(self) -> None:
        fault = self.told()
        if fault:
            raise OtherProcessFailed(fault)

    def missing(self, wait_seconds: float) -> list[int]:
        """The processes that do not answer within a while."""
        self.put("who is here", "")
        others = [rank for rank in range(self.member.size) if rank != self.member.rank]
        end = time.monotonic() + wait_seconds
        while True:
            silent = [rank for rank in others if not self.store.check([f"here/{rank}"])]
            if not silent or time.monotonic() >= end:
                return silent
            time.sleep(0.05)

    def answer(self) -> None:
        """For a thread of its own: says once, when it is asked, that this process is there, whatever that waits for."""
        with contextlib.suppress(RuntimeError):  # the board is gone: nobody asks
            while not self.store.check(["who is here"]):
                time.sleep(ANSWER_SECONDS)
            self.put(f"here/{self.member.rank}", "")

    def stop_seen(self, own: bool) -> bool:
        """Whether this process or, as far as is known, another one is asked to stop."""
        now = time.monotonic()
        if not self._stop_seen and (own or now - self._looked >= LOOK_EVERY_SECONDS):
            self._looked = now
            if own:
                self.put("stop", "")
            self._stop_seen = own or self.store.check(["stop"])
            self.raise_if_told()
        return self._stop_seen

    @contextmanager
    def once_a_machine(self) -> Iterator[None]:
        """The first process of each machine goes first; the others find its files."""
        self._turns += 1
        key = f"turn/{self._turns}/{self.member.machine}"
        if self.member.local_rank:
            self.wait(key)
        yield
        if not self.member.local_rank:
            self.put(key, "")


# The board of the group that this process is in, and how far it is.
_board: Board | None = None
_place = "before the first step"


def read_fault(store: dist.Store) -> Fault | None:
    return Fault(**json.loads(store.get("fault"))) if store.check(["fault"]) else None


@contextmanager
def joined(board: Board, timeout_seconds: float) -> Iterator[None]:
    """In the group of all processes of `board`, which must come within the timeout; no later exchange may take longer.

    The group is not taken down: its processes end with it.
    """
    global _board
    member = board.member
    if torch.cuda.is_available():
        torch.cuda.set_device(member.local_rank % torch.cuda.device_count())
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // member.local_size))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo",
        store=dist.PrefixStore("group", board.store),
        rank=member.rank,
        world_size=member.size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    _board = board
    yield


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    return _board.member.local_rank if _board else 0


def local_size() -> int:
    return _board.member.local_size if _board else 1


def is_main() -> bool:
    return rank() == 0


def at(place: str) -> None:
    """How far this process is, for the message of a fault."""
    global _place
    _place = place


def place() -> str:
    return _place


def once_a_machine() -> AbstractContextManager[None]:
    """For what leaves files in a cache: the first process of each machine goes first."""
    return _board.once_a_machine() if _board else contextlib.nullcontext()


def stop_seen(own: bool) -> bool:
    """`own`, or that of another process as far as is known: to be asked often, by each process when it likes."""
    return _board.stop_seen(own) if _board else own


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def rows_of_all(values: torch.Tensor) -> torch.Tensor:
    """`(size, *)`: the `values`, of one shape, of each process. What is made of them is bit for bit the same in each."""
    if not dist.is_initialized():
        return values.unsqueeze(0)
    rows = [torch.empty_like(values) for _ in range(size())]
    dist.all_gather(rows, values)
    return torch.stack(rows)


def largest(value: float) -> float:
    return float(rows_of_all(torch.tensor([value], dtype=torch.float64)).max())


def any_process(holds: bool) -> bool:
    return largest(float(holds)) > 0


def gathered(value: T) -> list[T]:
    """What each process gives, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def from_main(make: Callable[[], T]) -> T:
    """What the main process makes; the others do not make it."""
    if not dist.is_initialized():
        return make()
    box = [make() if is_main() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def check_alike(parts: Mapping[str, str], remedy: str) -> None:
    """Raises `DistributedError` in every process if one of `parts` is not the same in all."""
    all_parts = gathered(dict(parts))
    unlike = [name for name in parts if len({found.get(name) for found in all_parts}) > 1]
    if unlike:
        lines = [
            f"  {name}: " + ", ".join(f"{found.get(name)} (rank {rank})" for rank, found in enumerate(all_parts))
            for name in unlike
        ]
        raise DistributedError("\n".join([f"the processes differ; {remedy}:", *lines]))
