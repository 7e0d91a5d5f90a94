"""Sweeps whose jobs are forked from a process that has imported everything: a start takes no time."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

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
