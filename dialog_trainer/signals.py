"""Stop signals: SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 (preemption, a closed terminal, a scheduler's warning), and Ctrl-C.

A process goes through three stages. While it imports, a signal ends it at once. While it prepares, a signal is an
exception, so that what is half made is removed. While it trains or validates, a signal is a request that the loop reads
after each step (`StopSignal`).
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
# Windows has none of them.
EXIT_CODES |= {getattr(signal, name): 75 for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)}
NOTHING_TO_SAVE = "interrupted before there was anything to save"
# A third signal ends the process at once, without a checkpoint.
SIGNALS_TO_EXIT = 3
# The environment variable that makes a process a job of a sweep, which stops with its standard input.
SWEEP_JOB = "DIALOG_TRAINER_SWEEP_JOB"
_requests: list[int] = []


class StopRequest(SystemExit):
    """A stop signal other than Ctrl-C arrived before there was anything to save. `code` is the exit code."""


class StopSignal:
    """Within the block the first signals only set `received`; the third raises `SystemExit`.

    Outside the main thread the block changes nothing: only the main thread may set signal handlers.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._count = 0

    def __enter__(self) -> StopSignal:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._receive) for number in handled() if in_main_thread}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 75 after another stop signal, 0 without one."""
        return EXIT_CODES[self.received] if self.received else 0

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        self._count += 1
        if self._count >= SIGNALS_TO_EXIT:
            raise SystemExit(EXIT_CODES[signal.Signals(number)])


def handled() -> list[signal.Signals]:
    """The stop signals to handle: SIGHUP and the users' signals not where the caller ignores them, as nohup does."""
    always = (signal.SIGTERM, signal.SIGINT)
    return [number for number in EXIT_CODES if number in always or signal.getsignal(number) is not signal.SIG_IGN]


def end_at_once_on_stop() -> None:
    """From here on a stop signal ends the process with one line: an import of a library could swallow an exception."""
    for number in handled():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end_at_once)


def raise_on_stop() -> None:
    """From here on Ctrl-C is a `KeyboardInterrupt`, and each other stop signal a `StopRequest`.

    Leaves the handlers of a program that calls this package as they are.
    """
    for number in handled():
        if signal.getsignal(number) is _end_at_once:
            raises = signal.default_int_handler if number == signal.SIGINT else _raise_request
            signal.signal(number, raises)


def ignore_stops() -> None:
    """From here on stop signals do nothing: the process ends anyway, and its exit code is known."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)


def block_stops(block: bool) -> None:
    """Holds stop signals back, here and in processes that are started meanwhile, until they are released."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, EXIT_CODES)


def stop_with_standard_input() -> None:
    """From here on the end of standard input, a pipe whose other end the starting process holds, is a SIGTERM: no process
    goes on without the one that it works for, however that ended."""

    def wait() -> None:
        while os.read(0, 1024):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stop with standard input", daemon=True).start()


def _end_at_once(number: int, _: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"{NOTHING_TO_SAVE}\n".encode())
    os._exit(EXIT_CODES[signal.Signals(number)])


def _raise_request(number: int, _: FrameType | None) -> None:
    """Raises once: a second exception would end the clean-up after the first. The third signal ends the process."""
    _requests.append(number)
    if len(_requests) == 1:
        raise StopRequest(EXIT_CODES[signal.Signals(number)])
    if len(_requests) >= SIGNALS_TO_EXIT:
        os._exit(EXIT_CODES[signal.Signals(number)])
