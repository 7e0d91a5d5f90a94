"""A process's part in a group, and how whatever ends it reaches the others, and is told once."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import torch.distributed as dist

from dialog_trainer.distributed import group
from dialog_trainer.distributed.group import Board, Fault, OtherProcessFailed
from dialog_trainer.errors import DialogTrainerError

# So long others may take to notice that one is gone, before they count as gone too.
NOTICE_SECONDS = 3.0
GO_ON = "What was saved is whole: go on with mode=resume load_model_type=last"


def take_part(board: Board, work: Callable[[], int], *, tells: bool) -> int:
    """Does `work` as a member of a group and returns the exit code: that of the main process, 0 of the others.

    The first fault is put on the board, and printed where `tells`; who only sees that others are gone, asks who. After a
    fault the process ends at once: nothing that is left of the group could be waited for.
    """
    try:
        code = work()
        return code if board.member.rank == 0 else 0
    except OtherProcessFailed as other:
        return _end(other.fault.exit_code)
    except BaseException as error:
        try:
            fault = board.told()
            if fault is None:
                fault = _fault_of(error, board)
                if board.tell(fault) and tells:
                    print(fault.text, file=sys.stderr)
        except (dist.DistError, RuntimeError) as lost:  # the board was kept by a process that is gone
            fault = Fault(board.member.rank, _lost([0], board, lost), 1)
            if tells:
                print(fault.text, file=sys.stderr)
        return _end(fault.exit_code)


def _fault_of(error: BaseException, board: Board) -> Fault:
    rank = board.member.rank
    if isinstance(error, KeyboardInterrupt):
        return Fault(rank, "interrupted before there was anything to save", 130)
    if isinstance(error, SystemExit):
        return Fault(rank, f"{_where(board)}: ended at the third signal", int(error.code or 0))
    if isinstance(error, DialogTrainerError):
        whose = f"{_where(board)}: " if error.exit_code == 1 else ""
        return Fault(rank, f"{whose}{error}", error.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        return Fault(rank, f"{_where(board)}: {error.filename}: {error.strerror}", 1)
    if _is_of_the_group(error):
        return Fault(rank, _lost(board.missing(NOTICE_SECONDS), board, error), 1)
    return Fault(rank, f"{_where(board)}: {''.join(traceback.format_exception(error))}", 1)


def _where(board: Board) -> str:
    return f"rank {board.member.rank} of {board.member.size}, {group.place()}"


def _is_of_the_group(error: BaseException) -> bool:
    """Whether an exchange with other processes failed. Those within a backward pass come as any error of torch."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text or "connection closed" in text)
    )


def _lost(missing: list[int], board: Board, error: BaseException) -> str:
    size = board.member.size
    who = f"rank {', '.join(map(str, missing))} of {size}" if missing else f"one of {size} processes"
    seen = str(error).strip().splitlines()
    why = "did not answer in time" if "imed out" in str(error) or "imeout" in str(error) else "is gone"
    return f"{who} {why}, {group.place()} (seen by rank {board.member.rank}: {seen[0] if seen else error}). {GO_ON}"


def _end(code: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
