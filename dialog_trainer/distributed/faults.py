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

from dialog_trainer.distributed import group
from dialog_trainer.distributed.group import Board, Fault, OtherProcessFailed
from dialog_trainer.errors import DialogTrainerError

# Who does not answer in this time, while one is looked for, is gone too.
NOTICE_SECONDS = 1.5
GONE = "is gone"
NOTHING_TO_SAVE = "interrupted before there was anything to save"
GO_ON = "What was saved is whole: go on with mode=resume load_model_type=last"


def take_part(board: Board, work: Callable[[], int], *, tells: bool) -> NoReturn:
    """Does `work` as a member of a group, and ends the process: with the exit code of the work in the main one, else 0.

    The first fault is put on the board, and printed where `tells`; who only sees that others are gone, asks who. Nothing
    of the group is waited for at the end: after a fault there may be no one left to come.
    """
    threading.Thread(target=board.answer, daemon=True).start()
    try:
        code = work()
        _end(code if board.member.rank == 0 else 0)
    except OtherProcessFailed as other:
        _end(other.fault.exit_code)
    except BaseException as error:
        for number in (signal.SIGTERM, signal.SIGINT):  # it ends anyway, and has something to tell
            signal.signal(number, signal.SIG_IGN)
        try:
            fault = board.told()
            if fault is None:
                fault = _fault_of(error, board)
                if board.tell(fault) and tells:
                    print(fault.text, file=sys.stderr)
        except (dist.DistError, RuntimeError) as lost:  # the board was kept by a process that is gone
            fault = _lost([0], board, lost)
            if tells:
                print(fault.text, file=sys.stderr)
        _end(fault.exit_code)


def _fault_of(error: BaseException, board: Board) -> Fault:
    rank = board.member.rank
    if isinstance(error, KeyboardInterrupt):
        return Fault(rank, NOTHING_TO_SAVE, 130)
    if isinstance(error, SystemExit):
        return Fault(rank, f"{_where(board)}: ended at the third signal", int(error.code or 0))
    if isinstance(error, DialogTrainerError):
        # Options and files are at fault in all of them alike.
        return Fault(rank, f"{_where(board)}: {error}" if error.exit_code == 1 else str(error), error.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        return Fault(rank, f"{_where(board)}: {error.filename}: {error.strerror}", 1)
    if _is_of_the_group(error):
        return _lost(board.missing(NOTICE_SECONDS), board, error)
    return Fault(rank, f"{_where(board)}: {''.join(traceback.format_exception(error))}", 1)


def _where(board: Board) -> str:
    return f"rank {board.member.rank} of {board.member.size}, {group.place()}"


def _is_of_the_group(error: BaseException) -> bool:
    """Whether an exchange with other processes failed. Those within a backward pass come as any error of torch."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text or "connection closed" in text)
    )


def _lost(missing: list[int], board: Board, error: BaseException) -> Fault:
    rank, size = board.member.rank, board.member.size
    who = f"rank {', '.join(map(str, missing))} of {size}" if missing else f"one of {size} processes"
    late = "imed out" in str(error) or "imeout" in str(error)
    # Without the file of gloo that it came from, and its guesses.
    seen = re.sub(r"^\[[^\]]*\] ", "", str(error).strip()).split(". This is ")[0].splitlines()
    text = (
        f"{who} {'does not answer' if late else GONE}, {group.place()} (rank {rank} saw: {(seen or [''])[0]}). {GO_ON}"
    )
    return Fault(rank, text, 1, () if late else tuple(missing))


def _end(code: int) -> NoReturn:
    util._run_finalizers()  # locks of its own that multiprocessing would otherwise complain about
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
