"""Key-value store for control messages (job, stop, failure); works before initialization and after a rank has died."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from torch.distributed import Store  # type: ignore[attr-defined]  # torch exports it without naming it in its stubs

from dialog_trainer.distributed.environment import RankInfo

STOP_CHECK_SECONDS = 0.5
ROLL_CALL_CHECK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the work ended, reported by `rank`. `text` includes the remedy. `gone` lists ranks that died before."""

    rank: int
    text: str
    exit_code: int
    gone: tuple[int, ...] = ()


class PeerFailed(Exception):
    """Another rank has failed and reported why; this rank has nothing to add."""

    def __init__(self, failure: Failure):
        self.failure = failure
        super().__init__(failure.text)


class ControlStore:
    """Control messages between the ranks of a group. Unlike a collective, none of them needs all ranks to take part."""

    def __init__(self, store: Store, rank_info: RankInfo):
        self.store, self.rank_info = store, rank_info
        self._stop_seen, self._last_stop_check = False, 0.0
        self._blocks_entered = 0

    def put(self, key: str, value: str) -> None:
        self.store.set(key, value)

    def wait(self, key: str) -> str:
        """Waits for a value under `key`, without a limit. Raises `PeerFailed` if a rank fails meanwhile."""
        while not self.store.check([key]):
            self.raise_if_failed()
            time.sleep(0.05)
        return str(self.store.get(key).decode("utf-8"))

    def report(self, failure: Failure) -> bool:
        """Publishes a failure; returns whether it is the first one. Later failures are dropped."""
        text = json.dumps(asdict(failure))
        return bool(self.store.compare_set("failure", "", text).decode("utf-8") == text)

    def first_failure(self) -> Failure | None:
        return read_failure(self.store)

    def raise_if_failed(self) -> None:
        failure = self.first_failure()
        if failure:
            raise PeerFailed(failure)

    def find_missing(self, wait_seconds: float) -> list[int]:
        """Calls the roll: the other ranks that do not answer within `wait_seconds`."""
        self.put("who is here", "")
        others = [rank for rank in range(self.rank_info.size) if rank != self.rank_info.rank]
        end = time.monotonic() + wait_seconds
        while True:
            missing = [rank for rank in others if not self.store.check([f"here/{rank}"])]
            if not missing or time.monotonic() >= end:
                return missing
            time.sleep(0.05)

    def answer_roll_call(self) -> None:
        """Answers the first roll call. Runs in a thread of its own, so that a rank answers while it waits for others."""
        with contextlib.suppress(RuntimeError):  # the store is gone: nobody calls the roll
            while not self.store.check(["who is here"]):
                time.sleep(ROLL_CALL_CHECK_SECONDS)
            self.put(f"here/{self.rank_info.rank}", "")

    def stop_seen(self, requested: bool) -> bool:
        """Whether this rank (`requested`) or, as far as known, another one was asked to stop.

        Asks the store every half second at most. Raises `PeerFailed` if a rank has failed.
        """
        now = time.monotonic()
        if not self._stop_seen and (requested or now - self._last_stop_check >= STOP_CHECK_SECONDS):
            self._last_stop_check = now
            if requested:
                self.put("stop", "")
            self._stop_seen = requested or self.store.check(["stop"])
            self.raise_if_failed()
        return self._stop_seen

    @contextmanager
    def local_rank0_first(self) -> Iterator[None]:
        """Runs the block on local rank 0 of each machine first; its other ranks wait and find the files of rank 0."""
        self._blocks_entered += 1
        key = f"local_rank0/{self._blocks_entered}/{self.rank_info.machine}"
        if self.rank_info.local_rank:
            self.wait(key)
        yield
        if not self.rank_info.local_rank:
            self.put(key, "")


def read_failure(store: Store) -> Failure | None:
    return Failure(**json.loads(store.get("failure"))) if store.check(["failure"]) else None
