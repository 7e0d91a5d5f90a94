"""CPU threads of this process: how many torch computes with."""

from __future__ import annotations

from functools import cache

import torch

from dialog_trainer.config.job import Job
from dialog_trainer.config.schema import Config
from dialog_trainer.distributed import collectives
from dialog_trainer.types import Say


@cache  # before the first job of a sweep sets another number
def default_threads() -> int:
    """What torch or `join_process_group` chose at the start: `OMP_NUM_THREADS`, or cores / processes of the machine."""
    return torch.get_num_threads()


def set_threads(job: Job, say: Say) -> Config:
    """Sets the threads of torch; returns the configuration with their number, the same on all ranks.

    Sums depend on it in their last bits: a saved run keeps its number, and where this machine would choose another one,
    that is said.
    """
    config, default = job.config, default_threads()
    threads = config.threads
    if threads is None:
        threads = -int(collectives.all_reduce_max(-default))  # machines may differ
    elif threads != default and config.command.works_on_saved_run and "threads" not in [key for key, *_ in job.changes]:
        say(f"threads={threads}, as the run so far; this machine would choose {default} (threads=null)")
    torch.set_num_threads(threads)
    return config.replace({"threads": threads})
