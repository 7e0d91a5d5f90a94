"""SIGTERM and Ctrl-C as a request that the loop reads at the end of a step."""

from __future__ import annotations

import signal
import threading

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class StopSignal:
    """While entered, the first signals are only noted; the third ends the process at once.

    `received` is the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._count = 0

    def __enter__(self) -> StopSignal:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.received] if self.received else 0

    def _note(self, number: int, _: object) -> None:
        self.received = self.received or signal.Signals(number)
        self._count += 1
        if self._count >= 3:
            raise SystemExit(EXIT_CODES[signal.Signals(number)])
