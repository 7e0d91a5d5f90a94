"""A process's part in a group, and how whatever ends it reaches the others, and is told once."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import util
from typing import NoReturn

import torch.distributed as dist

from dialog_trainer.distributed import collectives
from dialog_trainer.distributed.store import ControlStore, Failure, PeerFailed
from dialog_trainer.errors import DialogTrainerError

# Who does not answer in this time, while one is looked for, is gone too.
NOTICE_SECONDS = 1.5
GONE = "is gone"
NOTHING_TO_SAVE = "interrupted before there was anything to save"
GO_ON = "What was saved is whole: go on with mode=resume load_model_type=last"


def run_as_rank(control: ControlStore, work: Callable[[], int], *, prints: bool) -> NoReturn:
    """Does `work` as a rank_info of a group, and ends the process: with the exit code of the work in the main one, else 0.

    The first failure is put on the control, and printed where `prints`; who only sees that others are gone, asks who. Nothing
    of the group is waited for at the end: after a failure there may be no one left to come.
    """
    threading.Thread(target=control.answer_roll_call, daemon=True).start()
    try:
        code = work()
        _end(code if control.rank_info.rank == 0 else 0)
    except PeerFailed as other:
        _end(other.failure.exit_code)
    except BaseException as error:
        for number in (signal.SIGTERM, signal.SIGINT):  # it ends anyway, and has something to tell
            signal.signal(number, signal.SIG_IGN)
        try:
            failure = control.first_failure()
            if failure is None:
                failure = _describe_failure(error, control)
                if control.report(failure) and prints:
                    print(failure.text, file=sys.stderr)
        except (dist.DistError, RuntimeError) as lost:  # the control was kept by a process that is gone
            failure = _lost([0], control, lost)
            if prints:
                print(failure.text, file=sys.stderr)
        _end(failure.exit_code)


def _describe_failure(error: BaseException, control: ControlStore) -> Failure:
    rank = control.rank_info.rank
    if isinstance(error, KeyboardInterrupt):
        return Failure(rank, NOTHING_TO_SAVE, 130)
    if isinstance(error, SystemExit):
        return Failure(rank, f"{_where(control)}: ended at the third signal", int(error.code or 0))
    if isinstance(error, DialogTrainerError):
        # Options and files are at failure in all of them alike.
        return Failure(rank, f"{_where(control)}: {error}" if error.exit_code == 1 else str(error), error.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(rank, f"{_where(control)}: {error.filename}: {error.strerror}", 1)
    if _is_of_the_group(error):
        return _lost(control.find_missing(NOTICE_SECONDS), control, error)
    return Failure(rank, f"{_where(control)}: {''.join(traceback.format_exception(error))}", 1)


def _where(control: ControlStore) -> str:
    return f"rank {control.rank_info.rank} of {control.rank_info.size}, {collectives.position()}"


def _is_of_the_group(error: BaseException) -> bool:
    """Whether an exchange with other processes failed. Those within a backward pass come as any error of torch."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text or "connection closed" in text)
    )


def _lost(missing: list[int], control: ControlStore, error: BaseException) -> Failure:
    rank, size = control.rank_info.rank, control.rank_info.size
    who = f"rank {', '.join(map(str, missing))} of {size}" if missing else f"one of {size} processes"
    late = "imed out" in str(error) or "imeout" in str(error)
    # Without the file of gloo that it came from, and its guesses.
    seen = re.sub(r"^\[[^\]]*\] ", "", str(error).strip()).split(". This is ")[0].splitlines()
    text = f"{who} {'does not answer' if late else GONE}, {collectives.position()} (rank {rank} saw: {(seen or [''])[0]}). {GO_ON}"
    return Failure(rank, text, 1, () if late else tuple(missing))


def _end(code: int) -> NoReturn:
    util._run_finalizers()  # locks of its own that multiprocessing would otherwise complain about
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
