"""Processes of jobs: each a command line of its own, whose output goes to a log, and which ends with the sweep."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from dialog_trainer.files import open_to_append, open_to_read
from dialog_trainer.screen import printable
from dialog_trainer.signals import SWEEP_JOB, handled

MAX_LINE = 300
_TAIL_BYTES = 2**14
_HEAD_BYTES = 2**20
# What a job prints of its options and data.
_NOTE = re.compile(r"(?:note|warning|train|train and validation|validation|precision): ", re.IGNORECASE)


class Process(Protocol):
    """What is used of a `subprocess.Popen`."""

    def poll(self) -> int | None: ...

    def send_signal(self, number: int) -> None: ...


def start_process(command: Sequence[str], folder: Path, log: str, environment: Mapping[str, str]) -> Process:
    """Starts a command with further `environment`; its output is appended to a file below `folder`.

    It is in a session of its own, because a terminal would send Ctrl-C to it too; and its standard input is a pipe, by
    whose end it knows that this process is gone.
    """
    with open_to_append(folder, log) as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, SWEEP_JOB: "1"},
            start_new_session=True,
        )


def describe_exit(code: int, folder: Path, log: str) -> str:
    """Why a process failed, in a line: the signal that ended it, or the last line of its log."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return last_line(folder, log) or f"exit code {code}, without a word"


def last_line(folder: Path, log: str) -> str:
    """The last line of a log that is not blank; empty where there is none."""
    try:
        with open_to_read(folder, log) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return printable(next((line.strip() for line in reversed(lines) if line.strip()), ""))[:MAX_LINE]


def read_notes(folder: Path, log: str) -> list[str]:
    """What the first MiB of a log says of options and data, each line once."""
    try:
        with open_to_read(folder, log) as file:
            lines = file.read(_HEAD_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return list(dict.fromkeys(printable(line) for line in lines if _NOTE.match(line)))


@contextmanager
def forward_stops(processes: Mapping[int, Process]) -> Iterator[list[signal.Signals]]:
    """Within the block stop signals go to all `processes`. Yields the received ones."""
    received: list[signal.Signals] = []

    def forward(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        send_to_all(processes, number)

    previous = {number: signal.signal(number, forward) for number in handled()}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def send_to_all(processes: Mapping[int, Process], number: int) -> None:
    for process in list(processes.values()):
        with suppress(ProcessLookupError):
            process.send_signal(number)
