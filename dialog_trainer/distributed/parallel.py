"""How a model stands on several processes: a copy on each (`ddp`), or a part of it on each (`fsdp`).

`ddp` is torch's DistributedDataParallel, `fsdp` its `fully_shard` (FSDP2). Either way the gradients are summed over the
processes once a step, with the last backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dialog_trainer.distributed import collectives
from dialog_trainer.errors import ConfigError


def parallelize(loss: torch.nn.Module, parallel: str, blocks: Iterable[str], sample: object) -> torch.nn.Module:
    """`loss` (a module that gives the loss of a batch, as `sample` is one, first) for a group of processes; as it is where
    there is one process alone.

    With `fsdp` the parameters are parts from here on, those of the modules whose class is named in `blocks` gathered one
    by one as they are needed: an optimizer is to be made after this.
    """
    if collectives.world_size() == 1:
        return loss
    device = next(loss.parameters()).device
    if parallel == "fsdp":
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise ConfigError([f"parallel=fsdp: torch {torch.__version__} is too old for it; use 2.13 or later"])
        mesh = torch.distributed.init_device_mesh(device.type, (collectives.world_size(),))
        names = set(blocks)
        for module in [module for module in loss.modules() if type(module).__name__ in names]:
            fully_shard(module, mesh=mesh)
        spread_loss = fully_shard(loss, mesh=mesh)
    else:
        used = torch.autograd.grad(loss(sample)[0], list(loss.parameters()), allow_unused=True)
        spread_loss = DistributedDataParallel(
            loss,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=any(gradient is None for gradient in used),
        )
    # Both settle in what order they add at their first pass: before the first step, so that a run that goes on adds as
    # one that never stopped.
    spread_loss(sample)[0].backward()
    spread_loss.zero_grad(set_to_none=True)
    return spread_loss


@contextmanager
def gradient_sync(loss: torch.nn.Module, last: bool) -> Iterator[None]:
    """Around a forward and backward pass: gradients are summed over the processes in the last one of a step."""
    if isinstance(loss, FSDPModule):
        loss.set_requires_gradient_sync(last)
    if isinstance(loss, DistributedDataParallel) and not last:
        with loss.no_sync():
            yield
    else:
        yield


def clip_grad_norm(parameters: Iterable[torch.nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Scales the gradients down to `max_norm` (None: never) and returns their norm before that, over all processes."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm or torch.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def unsharded(loss: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Within the block every process has all weights of `loss`, as `spread` gave it, and can use them, and what is
    yielded, without the others."""
    if not isinstance(loss, FSDPModule):
        yield loss.module if isinstance(loss, DistributedDataParallel) else loss
        return
    parts = [module for module in loss.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    yield loss
    for part in parts:
        part.reshard()
        # As `fully_shard` has it: the outermost part stays until the backward pass, which begins with it.
        part.set_reshard_after_forward(part is not loss, recurse=False)
    # It remembers what passed forward, to gather it ahead in the backward pass: here not the same in each process.
    loss.reset_iter_state()


def count_local_parameters(loss: torch.nn.Module) -> int:
    """How many numbers of the weights this process holds."""
    return sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in loss.parameters())


def gather_full_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, whole where each process holds a part; of those only the main process keeps any. Called by all."""
    found: dict[int, torch.Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in found and isinstance(tensor, DTensor):
            full = tensor.full_tensor().detach()
            found[id(tensor)] = full.cpu() if collectives.is_rank0() else full.new_empty(0)
    return {name: found.get(id(tensor), tensor.detach()) for name, tensor in tensors.items()}


def shard_like(whole_tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`whole_tensor`, or the part of it that this process holds of `like`."""
    if isinstance(like, DTensor) and whole_tensor.shape == like.shape:
        return distribute_tensor(whole_tensor.to(like.device), like.device_mesh, like.placements)
    return whole_tensor
