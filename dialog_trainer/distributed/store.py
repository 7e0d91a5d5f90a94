"""distributed.store."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch.distributed as dist

from dialog_trainer.distributed.environment import RankInfo

LOOK_EVERY_SECONDS = 0.5
ANSWER_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended the work, told by process `rank`; its text has the remedy in it. `gone` are processes that ended before."""

    rank: int
    text: str
    exit_code: int
    gone: tuple[int, ...] = ()


class PeerFailed(Exception):
    """Another process has told its failure: nothing is left to be said."""

    def __init__(self, failure: Failure):
        self.failure = failure
        super().__init__(failure.text)


class ControlStore:
    """What the processes of a group tell each other beside the sums: it works while they start, and when one is gone."""

    def __init__(self, store: dist.Store, rank_info: RankInfo):
        self.store, self.rank_info = store, rank_info
        self._stop_seen, self._looked = False, 0.0
        self._turns = 0

    def put(self, key: str, value: str) -> None:
        self.store.set(key, value)

    def wait(self, key: str) -> str:
        """The value under `key`, however long it takes. Raises `PeerFailed`."""
        while not self.store.check([key]):
            self.raise_if_failed()
            time.sleep(0.05)
        return self.store.get(key).decode("utf-8")

    def report(self, failure: Failure) -> bool:
        """Whether this failure was the first to be told."""
        text = json.dumps(asdict(failure))
        return self.store.compare_set("failure", "", text).decode("utf-8") == text

    def first_failure(self) -> Failure | None:
        return read_failure(self.store)

    def raise_if_failed(self) -> None:
        failure = self.first_failure()
        if failure:
            raise PeerFailed(failure)

    def find_missing(self, wait_seconds: float) -> list[int]:
        """The processes that do not answer within a while."""
        self.put("who is here", "")
        others = [rank for rank in range(self.rank_info.size) if rank != self.rank_info.rank]
        end = time.monotonic() + wait_seconds
        while True:
            silent = [rank for rank in others if not self.store.check([f"here/{rank}"])]
            if not silent or time.monotonic() >= end:
                return silent
            time.sleep(0.05)

    def answer_roll_call(self) -> None:
        """For a thread of its own: says once, when it is asked, that this process is there, whatever that waits for."""
        with contextlib.suppress(RuntimeError):  # the control is gone: nobody asks
            while not self.store.check(["who is here"]):
                time.sleep(ANSWER_SECONDS)
            self.put(f"here/{self.rank_info.rank}", "")

    def stop_seen(self, own: bool) -> bool:
        """Whether this process or, as far as is known, another one is asked to stop."""
        now = time.monotonic()
        if not self._stop_seen and (own or now - self._looked >= LOOK_EVERY_SECONDS):
            self._looked = now
            if own:
                self.put("stop", "")
            self._stop_seen = own or self.store.check(["stop"])
            self.raise_if_failed()
        return self._stop_seen

    @contextmanager
    def local_rank0_first(self) -> Iterator[None]:
        """The first process of each machine goes first; the others find its files."""
        self._turns += 1
        key = f"turn/{self._turns}/{self.rank_info.machine}"
        if self.rank_info.local_rank:
            self.wait(key)
        yield
        if not self.rank_info.local_rank:
            self.put(key, "")


def read_failure(store: dist.Store) -> Failure | None:
    return Failure(**json.loads(store.get("failure"))) if store.check(["failure"]) else None
