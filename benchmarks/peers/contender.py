"""Parent's side of a contender: a separate process that trains `n` steps on request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from peers.job import Job

from dialog_trainer.cli.launch import READ_BY_TORCH

BENCHMARKS = Path(__file__).resolve().parent.parent


class Unavailable(Exception):
    """A contender cannot run on this machine; the message gives the reason."""


class Contender:
    """Runs module `peers.<module>` with its job. `start_seconds` is the time until it was ready for its first step."""

    def __init__(self, name: str, module: str, job: Job, folder: Path):
        self.name = name
        number = sum(1 for _ in folder.glob(f"{name}.*.log"))
        self._log = folder / f"{name}.{number}.log"
        start = time.perf_counter()
        with self._log.open("w", encoding="utf-8") as log:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", f"peers.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=environment(folder / f"compiled-{name}-{number}", job.threads)
                | (READ_BY_TORCH if job.best else {}),
            )
        assert process.stdin
        assert process.stdout
        self._requests, self._answers = process.stdin, process.stdout
        try:
            self._ask(job.to_json())
        except Unavailable:
            self.close()
            raise
        self.start_seconds = time.perf_counter() - start

    def round(self, steps: int) -> dict[str, Any]:
        return self._ask(json.dumps({"steps": steps}))

    def close(self) -> None:
        with suppress(BrokenPipeError):  # it may have ended by itself
            self._requests.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def _ask(self, request: str) -> dict[str, Any]:
        try:
            self._requests.write(request + "\n")
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            code = self._process.returncode
            how = f"it was killed by signal {-code}" if code < 0 else f"{self._reason()} (exit code {code})"
            raise Unavailable(how)
        return json.loads(line)

    def _reason(self) -> str:
        lines = [line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "it ended without a message"


def environment(compiled: Path, threads: int) -> dict[str, str]:
    """Environment of every timed process: the same number of threads, one GPU at most, and an empty compiler cache."""
    paths = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, os.pathsep.join(paths).split(os.pathsep))),
        "OMP_NUM_THREADS": str(threads),
        # HF Trainer would take all that it sees, in larger batches.
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(compiled),
    }
