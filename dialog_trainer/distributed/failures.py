"""Runs the work of one rank; whatever ends it reaches the other ranks and is printed once."""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import util
from typing import NoReturn

import torch.distributed as dist

from dialog_trainer.distributed import collectives
from dialog_trainer.distributed.store import ControlStore, Failure, PeerFailed
from dialog_trainer.errors import DialogTrainerError, describe_error
from dialog_trainer.screen import write_line
from dialog_trainer.signals import NOTHING_TO_SAVE, StopRequest, ignore_stops

# A rank that does not answer the roll call within this time counts as gone.
ROLL_CALL_SECONDS = 1.5
GONE = "is gone"
RESUME_HINT = "The saved checkpoints are complete: continue with mode=resume load_model_type=last"


def run_as_rank(control: ControlStore, work: Callable[[], int], *, prints: bool) -> NoReturn:
    """Runs `work` as one rank of a group, then ends the process: rank 0 with the exit code of the work, others with 0.

    The first failure of any rank goes to the control store, and to stderr where `prints`. A rank whose collective fails
    because another died calls the roll to find out which. The process ends without closing the group: after a failure
    there may be no other rank to close it with.
    """
    threading.Thread(target=control.answer_roll_call, daemon=True).start()
    try:
        code = work()
        _exit(code if control.rank_info.rank == 0 else 0)
    except PeerFailed as peer:
        _exit(peer.failure.exit_code)
    except BaseException as error:
        ignore_stops()  # it must report first
        try:
            failure = control.first_failure()
            if failure is None:
                failure = _describe_failure(error, control)
                if control.report(failure) and prints:
                    write_line(failure.text, sys.stderr)
        except (dist.DistError, RuntimeError) as lost:  # the store was in a process that is gone: rank 0
            failure = _describe_lost([0], control, lost)
            if prints:
                write_line(failure.text, sys.stderr)
        _exit(failure.exit_code)


def _describe_failure(error: BaseException, control: ControlStore) -> Failure:
    rank = control.rank_info.rank
    where = f"rank {rank} of {control.rank_info.size}, {collectives.current_stage()}"
    if isinstance(error, KeyboardInterrupt | StopRequest):
        return Failure(rank, NOTHING_TO_SAVE, 130 if isinstance(error, KeyboardInterrupt) else int(error.code or 0))
    if isinstance(error, SystemExit):
        return Failure(rank, f"{where}: ended at the third signal", int(error.code or 0))
    if isinstance(error, DialogTrainerError):
        # Errors of configuration and files (exit code 2) are the same on all ranks: no rank is named.
        return Failure(rank, f"{where}: {error}" if error.exit_code == 1 else str(error), error.exit_code)
    if _is_collective_error(error):
        return _describe_lost(control.find_missing(ROLL_CALL_SECONDS), control, error)
    message = describe_error(error) if isinstance(error, Exception) else None
    return Failure(rank, f"{where}: {message or ''.join(traceback.format_exception(error))}", 1)


def _is_collective_error(error: BaseException) -> bool:
    """Whether a collective failed. In a backward pass torch raises a plain `RuntimeError` for it."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text or "connection closed" in text)
    )


def _describe_lost(missing: list[int], control: ControlStore, error: BaseException) -> Failure:
    rank, size = control.rank_info.rank, control.rank_info.size
    who = f"rank {', '.join(map(str, missing))} of {size}" if missing else f"one of {size} processes"
    timed_out = "imed out" in str(error) or "imeout" in str(error)
    # The first line of gloo's message, without its source file and its guesses at the cause.
    seen = re.sub(r"^\[[^\]]*\] ", "", str(error).strip()).split(". This is ")[0].partition("\n")[0]
    what = "does not answer" if timed_out else GONE
    text = f"{who} {what}, {collectives.current_stage()} (rank {rank} saw: {seen}). {RESUME_HINT}"
    return Failure(rank, text, 1, () if timed_out else tuple(missing))


def _exit(code: int) -> NoReturn:
    # Releases multiprocessing's own locks, of which it would print warnings; it has no public function for that.
    util._run_finalizers()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
