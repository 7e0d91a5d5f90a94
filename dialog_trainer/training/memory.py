"""How much memory a training step will take, told before the first: from what one small pass keeps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks

from dialog_trainer.distributed import parallel
from dialog_trainer.errors import ConfigError
from dialog_trainer.types import Batch

MOST_TOKENS = 8192  # larger forward passes are not faster
USED_SHARE = 0.6  # of what is free, by `auto`: other programs, and validations, need some too
_STEP = 256


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """`fixed_bytes` whatever the batch: this process as it is, gradients, the optimizer's state. `token_bytes` for each
    token of a forward pass, kept for its backward pass. `free_bytes` of the device, None where it does not say."""

    fixed_bytes: int
    token_bytes: float
    free_bytes: int | None

    def of(self, tokens: int) -> int:
        return round(self.fixed_bytes + self.token_bytes * tokens)

    def most_tokens(self, share: float) -> int:
        """The largest forward pass within a share of what is free; a multiple of 256, or less than that."""
        tokens = int((share * (self.free_bytes or 0) - self.fixed_bytes) / self.token_bytes)
        return tokens // _STEP * _STEP if tokens >= _STEP else max(0, tokens)

    def line(self, tokens: int, processes: int = 1) -> str:
        of = "" if self.free_bytes is None else f" of {_shown(self.free_bytes)}"
        each = " for each process" if processes > 1 else ""
        return (
            f"memory: about {_shown(self.of(tokens))}{of}{each} ({_shown(self.fixed_bytes)} with gradients and the "
            f"optimizer's state, {_shown(self.token_bytes * tokens)} for {tokens:,} tokens in a forward pass)"
        )


def check_model_fits(weights: int, on: torch.device, processes: int) -> None:
    """Raises `ConfigError` if so many weights, in fp32, do not even fit by themselves."""
    free = _free(on)
    processes = _sharing(on, processes)
    if free is not None and 4 * weights * processes > free:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ConfigError(
            [
                f"model: its {weights:,} weights take {_shown(4 * weights)}{each}, a training at least twice that, and "
                f"there are {_shown(free)}: use a smaller model"
            ]
        )


def measure_memory(
    loss: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, processes: int
) -> MemoryEstimate:
    """Of a step with `loss` and `optimizer`, by what `loss` keeps of `batch`; `processes` share the machine."""
    kept: dict[int, int] = {}
    own: set[int] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    held = parallel.count_local_parameters(loss)
    with parallel.unsharded(loss) as plain:
        plain.train()
        own |= {parameter.untyped_storage().data_ptr() for parameter in plain.parameters()}
        # The gradient of the head is kept once, whatever the number of tokens.
        largest = max(parameter.numel() * 4 for parameter in plain.parameters())
        with saved_tensors_hooks(note, lambda tensor: tensor):
            plain(batch)
    activations = sum(size for size in kept.values() if size < largest)
    device = next(loss.parameters()).device
    fixed = _present(device) + 4 * held * (1 + _state_of(optimizer)) + largest
    free, processes = _free(device), _sharing(device, processes)
    return MemoryEstimate(
        fixed,
        activations / len(batch.ids),
        None if free is None else (free + _present(device) * processes) // processes,
    )


def fit_micro_batch_tokens(memory: MemoryEstimate, asked: int | str, max_len: int, batch_tokens: int) -> int:
    """The tokens of a forward pass: as `asked`, or with `auto` what fits. Raises `ConfigError` if that is not enough."""
    if memory.free_bytes is None:
        return MOST_TOKENS if asked == "auto" else asked
    tokens = asked
    if asked == "auto":
        tokens = max(max_len, min(MOST_TOKENS, memory.most_tokens(USED_SHARE)))
    needed = min(tokens, batch_tokens)
    if memory.of(needed) > memory.free_bytes:
        fits = memory.most_tokens(1.0)
        smaller = f"micro_batch_tokens={fits}, " if fits >= max_len else ""
        raise ConfigError(
            [
                f"micro_batch_tokens={asked}: a step would take about {_shown(memory.of(needed))}, and there are "
                f"{_shown(memory.free_bytes)}: use {smaller}activation_checkpointing=true, parallel=fsdp on several "
                "devices, or a smaller model"
            ]
        )
    return tokens


def _shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _sharing(device: torch.device, processes: int) -> int:
    """Of the processes of a machine those that share the memory; each has a GPU of its own."""
    return processes if device.type == "cpu" else 1


def _state_of(optimizer: torch.optim.Optimizer) -> int:
    """Numbers that the optimizer keeps for each weight."""
    if "betas" in optimizer.defaults:
        return 2
    return int(bool(optimizer.defaults.get("momentum")))


def _present(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.exists():
        return None
    lines = (line.split() for line in info.read_text().splitlines())
    free = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free
