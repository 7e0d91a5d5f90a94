"""A progress that a test can look into."""

from collections.abc import Callable


class RecordingProgress:
    """Keeps the stages and the counts reported in each; `stop(progress)` answers whether a stop is requested."""

    def __init__(self, stop: "Callable[[RecordingProgress], bool]" = lambda progress: False):
        self.stages: list[tuple[str, int]] = []
        self.counts: list[int] = []
        self.done: dict[str, int] = {}
        self._stop = stop

    def start(self, name: str, total: int) -> None:
        self.stages.append((name, total))
        self.done[name] = 0

    def advance(self, count: int) -> None:
        self.counts.append(count)
        if self.stages:
            self.done[self.stages[-1][0]] += count

    def stop_requested(self) -> bool:
        return self._stop(self)
