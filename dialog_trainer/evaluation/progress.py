"""Progress and stop requests of a long computation: the protocol, a silent one, and one for a part of the work."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives how far a computation is, and says whether it is to stop."""

    def start(self, name: str, total: int) -> None:
        """Opens a stage of `total` items in place of the one before."""

    def advance(self, count: int) -> None:
        """Counts `count` more items of the open stage as done."""

    def stop_requested(self) -> bool:
        """Whether to stop before the next batch. Ranks may see a request at different times."""


class SilentProgress:
    """Shows nothing and never stops."""

    def start(self, name: str, total: int) -> None:
        return

    def advance(self, count: int) -> None:
        return

    def stop_requested(self) -> bool:
        return False


SILENT = SilentProgress()


class PartProgress:
    """Counts `part` items and advances `progress` by as many of `total` as have the same share: all of them at the end.

    For a rank that reports its shard as the split, and for replies reported as dialogues. An empty part reports nothing.
    """

    def __init__(self, progress: Progress, part: int, total: int):
        self._progress, self._part, self._total = progress, part, total
        self._done = self._reported = 0

    def start(self, name: str, total: int) -> None:
        self._progress.start(name, total)

    def advance(self, count: int) -> None:
        self._done += count
        reached = self._done * self._total // self._part if self._part else 0
        if reached > self._reported:
            self._progress.advance(reached - self._reported)
            self._reported = reached

    def stop_requested(self) -> bool:
        return self._progress.stop_requested()
