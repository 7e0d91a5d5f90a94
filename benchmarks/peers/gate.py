"""Contender's side of the pipe: waits for requests to train, and reports how long the steps took.

A contender calls `begin_step` before each of its steps, and `note` with the loss of each. A line `{"steps": n}` on its
standard input starts n steps; the answer is a line of JSON. The clock runs from the beginning of the first of these
steps to the beginning of the step after the last, so it includes everything of n steps, loading their batches too.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peers.job import Job


class Gate:
    """`job` is the parent's request (see `contender.py`). From here on standard output goes to the log."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.job = Job.from_json(sys.stdin.readline())
        torch.set_num_threads(self.job.threads)
        self._left: int | None = None
        self._start = 0.0
        self._losses: list[Any] = []
        self._tokens = 0
        self._anonymous = 0

    def note(self, loss: Any, tokens: int = 0) -> None:
        self._losses.append(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        self._tokens += tokens

    def begin_step(self) -> None:
        self._anonymous = max(self._anonymous, _status("RssAnon"))
        if not self._left:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - self._start
            self._answer({"ready": True} if self._left is None else {"seconds": seconds, **self._report()})
            self._await()
        self._left = (self._left or 0) - 1

    def _await(self) -> None:
        line = sys.stdin.readline()
        if not line:  # the parent has finished; skip what a contender does at its end
            os._exit(0)
        self._left = json.loads(line)["steps"]
        self._losses, self._tokens = [], 0
        self._start = time.perf_counter()

    def _report(self) -> dict[str, Any]:
        report = {
            "losses": [None if loss is None else float(loss) for loss in self._losses],
            "tokens": self._tokens,
            "peak_bytes": _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "held_bytes": _status("VmRSS"),
            "anonymous_bytes": self._anonymous,
        }
        if torch.cuda.is_available():
            report["peak_bytes"] = torch.cuda.max_memory_allocated()
        return report

    def _answer(self, row: dict[str, Any]) -> None:
        self._answers.write(json.dumps(row) + "\n")
        self._answers.flush()


def _status(key: str) -> int:
    """Bytes of a line of `/proc/self/status`; 0 on other systems."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
