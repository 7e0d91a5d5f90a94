"""Turns SIGTERM (preemption) and Ctrl-C into a stop request that the training loop reads after each step."""

from __future__ import annotations

import signal
import threading
from types import FrameType

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
# A third signal ends the process at once, without a checkpoint.
SIGNALS_TO_EXIT = 3


class StopSignal:
    """Within the block the first signals only set `received`; the third raises `SystemExit`.

    Outside the main thread the block changes nothing: only the main thread may set signal handlers.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._count = 0

    def __enter__(self) -> StopSignal:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._receive) for number in EXIT_CODES if in_main_thread}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """75 after SIGTERM, 130 after Ctrl-C, 0 without a signal."""
        return EXIT_CODES[self.received] if self.received else 0

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        self._count += 1
        if self._count >= SIGNALS_TO_EXIT:
            raise SystemExit(EXIT_CODES[signal.Signals(number)])
