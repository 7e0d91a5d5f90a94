"""Data parallelism: DDP (a copy of the model on each rank) or FSDP2 (a shard of it on each rank).

`ddp` is torch's `DistributedDataParallel`, `fsdp` its `fully_shard`. Both reduce the gradients over the ranks once a step,
in the last backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dialog_trainer.distributed import collectives
from dialog_trainer.errors import ConfigError


def parallelize(loss: torch.nn.Module, strategy: str, blocks: Iterable[str], batch: object) -> torch.nn.Module:
    """Makes `loss` data parallel with strategy `ddp` or `fsdp`; in a group of one it stays as it is.

    `loss` maps a batch to its loss and more; `batch` is a small one to try it on. `blocks` are the class names of the
    modules whose weights FSDP gathers one at a time. FSDP replaces the parameters by shards: build the optimizer after
    this.
    """
    if collectives.world_size() == 1:
        return loss
    device = next(loss.parameters()).device
    parallel_loss = loss
    if strategy == "fsdp":
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise ConfigError([f"parallel=fsdp: torch {torch.__version__} is too old for it; use 2.13 or later"])
        mesh = init_device_mesh(device.type, (collectives.world_size(),))
        names = set(blocks)
        for module in [module for module in loss.modules() if type(module).__name__ in names]:
            fully_shard(module, mesh=mesh)
        fully_shard(loss, mesh=mesh)  # in place
    else:
        gradients = torch.autograd.grad(loss(batch)[0], trained_parameters(loss), allow_unused=True)
        parallel_loss = DistributedDataParallel(
            loss,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=any(gradient is None for gradient in gradients),
        )
    # Both choose the order of their sums in the first pass. It runs before the first step, so that a resumed run adds in
    # the same order as one that never stopped.
    parallel_loss(batch)[0].backward()
    parallel_loss.zero_grad(set_to_none=True)
    return parallel_loss


@contextmanager
def gradient_sync(loss: torch.nn.Module, last: bool) -> Iterator[None]:
    """Around a forward and backward pass: only the `last` one of a step reduces the gradients over the ranks."""
    if isinstance(loss, FSDPModule):
        loss.set_requires_gradient_sync(last)
    if isinstance(loss, DistributedDataParallel) and not last:
        with loss.no_sync():
            yield
    else:
        yield


def clip_grad_norm(parameters: Iterable[torch.nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Clips the gradients to the global norm `max_norm` (None: no clipping); returns the norm before, over all ranks."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm or torch.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def unsharded(loss: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yields a loss with the full weights on each rank, which each rank may use without the others, as often as it likes.

    `loss` is the result of `parallelize`.
    """
    if not isinstance(loss, FSDPModule):
        yield loss.module if isinstance(loss, DistributedDataParallel) else loss
        return
    shards = [module for module in loss.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    yield loss
    for module in shards:
        module.reshard()
        # The default of `fully_shard`: the root keeps its weights for the backward pass, which starts with them.
        module.set_reshard_after_forward(module is not loss, recurse=False)
    # FSDP prefetches in the order of the forward passes it saw; those within the block differ between ranks.
    loss.reset_iter_state()


def trained_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def count_local_parameters(loss: torch.nn.Module) -> int:
    """The trained weights that this rank holds, as numbers."""
    local = (one.to_local() if isinstance(one, DTensor) else one for one in trained_parameters(loss))
    return sum(tensor.numel() for tensor in local)


def gather_full_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The full tensors, by name. Gathered shards stay on rank 0 alone, on the CPU; other ranks get empty tensors.

    All ranks call this together.
    """
    gathered: dict[int, torch.Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in gathered and isinstance(tensor, DTensor):
            full = tensor.full_tensor().detach()
            gathered[id(tensor)] = full.cpu() if collectives.is_rank0() else full.new_empty(0)
    return {name: gathered.get(id(tensor), tensor.detach()) for name, tensor in tensors.items()}


def shard_like(full: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The shard of `full` that belongs to this rank's shard of `parameter`; `full` itself if that is not sharded."""
    if isinstance(parameter, DTensor) and full.shape == parameter.shape:
        return distribute_tensor(full.to(parameter.device), parameter.device_mesh, parameter.placements)
    return full
