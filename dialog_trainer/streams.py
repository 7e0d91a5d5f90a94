"""Standard streams and logs that may go away: once a write fails, all later ones go nowhere, and nobody sees an error.

A closed pipe, a full disk, a vanished terminal and a stream that the caller closed must not end hours of work.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from dialog_trainer.screen import write_line

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OUTPUT, ERRORS = "standard output", "standard error"
_DESCRIPTORS = {"stdin": "r", "stdout": "w", "stderr": "w"}
_NAMES = {"stdout": OUTPUT, "stderr": ERRORS}


# The outputs that were lost, and why, until somebody has reported them. Not reported from within a write: a report is
# written too.
losses: list[tuple[str, OSError]] = []


class LastingOutput(io.RawIOBase):
    """Writes the bytes of a file until that fails, then to nowhere; `losses` gets the error. `copy` gets all bytes."""

    def __init__(self, file: io.FileIO, name: str):
        self._file, self.name = file, name
        self._lost = False
        self.copy: Callable[[bytes], object] | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()

    def write(self, data: ReadableBuffer, /) -> int:
        count = self._write(data)
        if self.copy:
            self.copy(bytes(data)[:count])
        return count

    def _write(self, data: ReadableBuffer) -> int:
        try:
            # None: another process has made the pipe or the terminal non-blocking, and it is full.
            while (count := self._file.write(data)) is None:
                select.select([], [self._file], [])
            return count
        except OSError as error:
            if not self._lost:
                self._lost = True
                with suppress(OSError):  # libraries in C and other processes write to the descriptor
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, self.fileno())
                    os.close(null)
                losses.append((self.name, error))
        return memoryview(data).nbytes

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()


def open_text(file: io.FileIO, name: str, *, encoding: str = "utf-8", line_buffering: bool = True) -> io.TextIOWrapper:
    """Text over a `LastingOutput`; what the encoding cannot express is written as an escape."""
    buffer = io.BufferedWriter(LastingOutput(file, name))
    return io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering)


def protect_standard_streams() -> None:
    """Opens the streams that the caller closed, so that nothing else gets their descriptors, and lets the process outlive
    the two outputs."""
    for name, mode in _DESCRIPTORS.items():
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
            if name == "stdout" and sys.stderr is not None:
                write_line(f"{OUTPUT} is closed: nothing will be shown", sys.stderr)
    for name, title in _NAMES.items():
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or find_output(stream):
            continue
        if os.name == "nt":  # a Windows console is no plain file
            stream.reconfigure(errors="backslashreplace")
            continue
        stream.flush()
        file = io.FileIO(stream.fileno(), "w", closefd=False)
        lines = stream.line_buffering or stream.write_through
        setattr(sys, name, open_text(file, title, encoding=stream.encoding, line_buffering=lines))


def find_output(stream: object) -> LastingOutput | None:
    """The `LastingOutput` under a text stream, if that is one of this module."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, LastingOutput) else None
