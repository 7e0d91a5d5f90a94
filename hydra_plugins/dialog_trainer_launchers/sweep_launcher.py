"""`hydra/launcher=local`, `submitit_local` and `submitit_slurm`: where the jobs of a sweep run. Imports no torch.

It is thin: `dialog_trainer` gives it the function that runs the sweep, and gets back the exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra.plugins.launcher import Launcher


class SweepLauncher(Launcher):
    """Hands the sweep over to `dialog_trainer`, which knows which of its jobs are done, and has checked the `settings`."""

    def __init__(self, **settings: Any) -> None:
        self._run: Callable[..., int] | None = None

    def setup(self, *, hydra_context: Any, task_function: Callable[..., int], config: Any) -> None:
        self._run = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[int]:
        if self._run is None:
            raise RuntimeError("setup comes before launch")
        return [self._run(job_overrides)]
