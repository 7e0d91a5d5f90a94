"""The only user of `torch.distributed`: sums over the processes of a run. One process is a group of one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sums every gradient over all processes, in place; a missing gradient counts as 0."""
    if dist.is_initialized():
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
