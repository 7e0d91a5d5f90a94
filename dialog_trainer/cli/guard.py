"""Errors, signals and closed streams of a command line: one line in place of a traceback, and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from dialog_trainer.errors import DialogTrainerError
from dialog_trainer.screen import write_line


def guard(action: Callable[[], int]) -> int:
    """The exit code of an action; what a user can put right is printed in place of a traceback."""
    try:
        return action()
    except DialogTrainerError as error:
        write_line(str(error), sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        discard_output()
        write_line("standard output was closed by its reader; stopped", sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        write_line(f"{error.filename}: {error.strerror}; fix it or choose another path", sys.stderr)
        return 1
    except KeyboardInterrupt:
        write_line("interrupted before there was anything to save", sys.stderr)
        return 130


def end_at_once_on_interrupt() -> None:
    """Until a command has something to save, Ctrl-C ends the process: an import of a library could swallow the
    exception."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked while the interpreter started


def raise_on_interrupt() -> None:
    """From here on Ctrl-C is a `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def open_closed_streams() -> None:
    """Opens streams that the caller closed, so that nothing else gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
            if name == "stdout" and sys.stderr is not None:
                write_line("standard output is closed: nothing will be shown", sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a reply that the terminal cannot show must not end a run


def discard_output() -> None:
    """Lets the interpreter end without a second error when it flushes what nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Ctrl-C before a command runs: an import of a library could swallow the exception."""
    os.write(2, b"interrupted before there was anything to save\n")
    os._exit(130)
