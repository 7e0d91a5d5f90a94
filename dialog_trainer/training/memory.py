"""Estimates the memory of a training step before the first one, from one small forward pass."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks

from dialog_trainer.amounts import format_bytes
from dialog_trainer.distributed import parallel
from dialog_trainer.errors import ConfigError
from dialog_trainer.types import Batch

MAX_AUTO_TOKENS = 8192  # larger forward passes are not faster
AUTO_FRACTION = 0.6  # of the free memory that `auto` plans with: other programs and validations need some too
_TOKEN_MULTIPLE = 256


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of a step.

    `fixed_bytes` do not depend on the batch: this process as it is now, gradients, optimizer state. `token_bytes` are the
    activations kept for the backward pass, for each token of a micro-batch. `free_bytes` is what this process may use of
    the device, None where that is unknown.
    """

    fixed_bytes: int
    token_bytes: float
    free_bytes: int | None

    def step_bytes(self, tokens: int) -> int:
        return round(self.fixed_bytes + self.token_bytes * tokens)

    def max_tokens(self, fraction: float) -> int:
        """The largest micro-batch within a fraction of the free memory; a multiple of 256, unless it is below 256."""
        tokens = int((fraction * (self.free_bytes or 0) - self.fixed_bytes) / self.token_bytes)
        return tokens // _TOKEN_MULTIPLE * _TOKEN_MULTIPLE if tokens >= _TOKEN_MULTIPLE else max(0, tokens)

    def line(self, tokens: int, processes: int = 1) -> str:
        total = "" if self.free_bytes is None else f" of {format_bytes(self.free_bytes)}"
        each = " for each process" if processes > 1 else ""
        return (
            f"memory: about {format_bytes(self.step_bytes(tokens))}{total}{each} ({format_bytes(self.fixed_bytes)} with "
            f"gradients and optimizer state, {format_bytes(self.token_bytes * tokens)} for {tokens:,} tokens in a forward "
            "pass)"
        )


def check_model_fits(parameters: int, device: torch.device, processes: int) -> None:
    """Raises `ConfigError` if the fp32 weights alone are larger than the free memory."""
    free = free_bytes(device)
    processes = _processes_sharing(device, processes)
    if free is not None and 4 * parameters * processes > free:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ConfigError(
            [
                f"model: its {parameters:,} weights take {format_bytes(4 * parameters)}{each}, training at least twice "
                f"that, and {format_bytes(free)} are free: use a smaller model"
            ]
        )


def measure_memory(
    loss: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, processes: int, mixed: bool = False
) -> MemoryEstimate:
    """Estimates a step with `loss` and `optimizer` from what a forward pass of `batch` keeps for its backward pass.

    `processes` is the number of processes on this machine. `mixed`: the weights are cast to 16 bits for the passes of a step.
    """
    kept: dict[int, int] = {}  # bytes of each storage that autograd keeps
    weights: set[int] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    local_parameters = parallel.count_local_parameters(loss)
    with parallel.unsharded(loss) as plain_loss:
        plain_loss.train()
        weights |= {parameter.untyped_storage().data_ptr() for parameter in plain_loss.parameters()}
        # The gradient of the output projection is kept once, whatever the number of tokens.
        largest = max(plain_loss.parameters(), key=torch.Tensor.numel)
        head_bytes = largest.numel() * 4
        cast_bytes = 2 * sum(parameter.numel() for parameter in plain_loss.parameters()) if mixed else 0
        with saved_tensors_hooks(note, lambda tensor: tensor):
            plain_loss(batch)
    activations = sum(size for size in kept.values() if size < head_bytes)
    device = next(loss.parameters()).device
    used, free, processes = _used_bytes(device), free_bytes(device), _processes_sharing(device, processes)
    return MemoryEstimate(
        fixed_bytes=used
        + 4 * local_parameters * (1 + state_size(optimizer))
        + head_bytes * largest.requires_grad
        + cast_bytes,
        token_bytes=activations / len(batch.ids),
        free_bytes=None if free is None else (free + used * processes) // processes,
    )


def fit_micro_batch_tokens(memory: MemoryEstimate, requested: int | str, max_len: int, batch_tokens: int) -> int:
    """Tokens of a micro-batch: as `requested`, or with `auto` as many as fit.

    `batch_tokens` are those of a whole batch of this rank, `max_len` those of the longest sequence. Raises `ConfigError`
    if a step does not fit.
    """
    if memory.free_bytes is None:
        return requested if isinstance(requested, int) else MAX_AUTO_TOKENS
    if isinstance(requested, int):
        tokens = requested
    else:
        tokens = max(max_len, min(MAX_AUTO_TOKENS, memory.max_tokens(AUTO_FRACTION)))
    needed_bytes = memory.step_bytes(min(tokens, batch_tokens))
    if needed_bytes > memory.free_bytes:
        fitting = memory.max_tokens(1.0)
        smaller = f"micro_batch_tokens={fitting}, " if fitting >= max_len else ""
        raise ConfigError(
            [
                f"micro_batch_tokens={requested}: a step would take about {format_bytes(needed_bytes)}, and "
                f"{format_bytes(memory.free_bytes)} are free: use {smaller}activation_checkpointing=true, parallel=fsdp "
                "on several devices, or a smaller model"
            ]
        )
    return tokens


def _processes_sharing(device: torch.device, processes: int) -> int:
    """The processes of this machine that share the memory of a device; each has a GPU of its own."""
    return processes if device.type == "cpu" else 1


def state_size(optimizer: torch.optim.Optimizer) -> int:
    """Numbers of optimizer state for each weight."""
    if "betas" in optimizer.defaults:
        return 2
    return int(bool(optimizer.defaults.get("momentum")))


def _used_bytes(device: torch.device) -> int:
    """Memory of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


def free_bytes(device: torch.device) -> int | None:
    """Free memory of the device, for a CPU within the limit of the container; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.exists():
        return None
    lines = (line.split() for line in info.read_text().splitlines())
    free = next(int(fields[1]) * 1024 for fields in lines if fields[0] == "MemAvailable:")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free
