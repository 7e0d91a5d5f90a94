"""Sweeps whose jobs are forked from a process that has imported everything: a start takes no time."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from dialog_trainer.cli import sweep
from dialog_trainer.files import open_to_append
from dialog_trainer.signals import SWEEP_JOB, handled
from dialog_trainer.sweeps import runner
from tests.helpers.processes import SERVER, run_command, run_forked


class ForkedJob:
    """What the runner uses of a `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]):
        log.parent.mkdir(exist_ok=True)
        environ = {**environment, "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
        self.process = SERVER.Process(target=run_forked, args=(run_command, tuple(arguments), Path.cwd(), log, environ))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signal.Signals(number))


def start_forked(command: Sequence[str], folder: Path, log: str, environment: Mapping[str, str]) -> ForkedJob:
    """In place of `start_process`."""
    return ForkedJob(command[command.index("dialog_trainer") + 1 :], folder.absolute() / log, environment)


class ForkedProcess:
    """A job forked by the process of the sweep, which is itself forked and has no fork server.

    It ends with its standard input, as one that `start_process` starts.
    """

    held: ClassVar[list[int]] = []

    def __init__(self, arguments: Sequence[str], output: int, environment: Mapping[str, str]):
        source, held = os.pipe()
        self.pid, self.code = os.fork(), None
        if self.pid:
            os.close(source)
            self.held.append(held)
            return
        for descriptor in (*self.held, held):
            os.close(descriptor)
        os.setsid()
        for descriptor, number in ((source, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, number)
        os.environ.update({**environment, SWEEP_JOB: "1"})
        for number in handled():
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        code = 1
        try:
            run_command(*arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def run_sweep_command(*options: str) -> None:
    """The command line of a sweep, in a process that has imported everything: its jobs are forked, and no report is written."""

    def start(command: Sequence[str], folder: Path, log: str, environment: Mapping[str, str]) -> ForkedProcess:
        with open_to_append(folder, log) as file:
            return ForkedProcess(command[command.index("dialog_trainer") + 1 :], file.fileno(), environment)

    runner.start_process = start
    sweep.write_report = lambda folder, command: None
    run_command(*options)
