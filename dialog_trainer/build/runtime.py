"""How a step is computed: device, autocast precision, parallelism, memory and compilation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from dialog_trainer.config.machine import missing_compiler
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import show
from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.data.packing import batch_to_device, dummy_batch, pack_micro_batches, weigh_every_turn
from dialog_trainer.distributed import collectives, parallel
from dialog_trainer.errors import ConfigError
from dialog_trainer.model.compile import (
    COMPILE_ERRORS,
    can_compile,
    compile_blocks,
    compile_is_faster,
    failure_reason,
    run_eagerly,
    uncompile_blocks,
)
from dialog_trainer.model.kernels.malloc import release_freed_memory
from dialog_trainer.model.loss import PackedLoss
from dialog_trainer.training.memory import fit_micro_batch_tokens, measure_memory
from dialog_trainer.types import Batch, Say

# Tokens of the small pass that measures a step's memory, and of the one that compiles it.
SAMPLE_TOKENS = 256
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def configure_torch(deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic)
    # Nothing reads memory before it is written; to fill it was 2 % of a step at 124 M.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # not in the stubs
    torch.backends.cudnn.benchmark = not deterministic


def select_device(config: Config) -> torch.device:
    """The device of `device`. Raises `ConfigError` if it is not there, or cannot do what `precision` asks."""
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if config.device == "auto" and config.processes > 1:
        wanted = "cpu"  # what `processes` means
    count = torch.cuda.device_count()
    if isinstance(wanted, tuple) or wanted == "cuda":
        indices = wanted if isinstance(wanted, tuple) else range(collectives.local_size())
        if max(indices) >= count or collectives.local_rank() >= len(indices):
            there = f"there are {count} CUDA devices" if count else "there is no CUDA device"
            here = f" for {collectives.local_size()} processes on this machine" if collectives.local_size() > 1 else ""
            raise ConfigError([f"device={show(config.device)}: {there}{here}; use device=auto or device=cpu"])
        device = torch.device("cuda", indices[collectives.local_rank()])
        if config.precision == "bf16" and config.command.trains and torch.cuda.get_device_capability(device) < (8, 0):
            name = torch.cuda.get_device_name(device)
            raise ConfigError(
                [f"precision=bf16: {name} has no arithmetic for it; use precision=fp16 or precision=fp32"]
            )
        return device
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["device=mps: this machine has none; use device=auto or device=cpu"])
    return torch.device(wanted)


def build_autocast(config: Config, device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """Makes the autocast context (mixed precision: bf16 or fp16 activations, fp32 weights) of `precision` on this device.

    `precision=auto` must be resolved.
    """
    if config.precision == "fp32":
        return contextlib.nullcontext
    return partial(torch.autocast, device.type, dtype=_DTYPES[config.precision])


def build_grad_scaler(config: Config, device: torch.device) -> torch.amp.GradScaler:
    """Keeps the small gradients of fp16; of another precision it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")


def parallelize_loss(config: Config, model: PreTrainedModel, device: torch.device) -> torch.nn.Module:
    """The loss of the model, on all processes of the group; the optimizer is made after it."""
    with run_eagerly():
        return parallel.parallelize(
            PackedLoss(model), config.parallel, model._no_split_modules or (), dummy_batch(device)
        )


def resolve_compile(config: Config, model: PreTrainedModel, device: torch.device, say: Say) -> Config:
    """The configuration with true, false, or auto for `compile`: `auto` where compilation should help; it may still fail.

    Unless false, the blocks of the model compile at their first forward pass.
    """
    wanted = config.compile
    lack = next(filter(None, collectives.all_gather_objects(missing_compiler())), None)  # all compile, or none
    if wanted == "auto":
        wanted = compile_is_faster(device) and can_compile(model) and not config.activation_checkpointing
        if wanted and lack:
            say(f"note: not compiled, which would be faster: {lack}")
        wanted = "auto" if wanted and not lack else False
    elif wanted and lack:
        raise ConfigError([f"compile=true: {lack}, or use compile=false"])
    if wanted and not can_compile(model):
        raise ConfigError([f"compile=true: {type(model).__name__} takes no packed attention; use compile=false"])
    if wanted:
        compile_blocks(model)
    return config.replace({"compile": wanted})


def warm_up_compile(
    config: Config,
    loss: torch.nn.Module,
    model: PreTrainedModel,
    training: TokenDataset,
    device: torch.device,
    say: Say,
) -> Config:
    """Compiles, where that is wanted, on a small batch; returns the configuration with true or false for `compile`.

    With auto, a model that torch could not compile stays as it is; with several processes a failure is an error, since all must decide alike.
    """
    if not config.compile:
        return config
    say("compiling (up to a minute at the first time, seconds with what is kept of it)")
    start = time.perf_counter()
    loss.train()
    try:
        with parallel.gradient_sync(loss, last=True):
            with build_autocast(config, device)():
                nats, _ = loss(_sample_batch(training, device))
            nats.backward()
    except COMPILE_ERRORS as error:
        why, asked = f"torch could not: {failure_reason(error)}", config.compile
        if asked != "auto" or collectives.world_size() > 1:
            raise ConfigError([f"compile={str(asked).lower()}: {why}; use compile=false"]) from None
        uncompile_blocks(model)
        say(f"note: not compiled, which would be faster: {why}")
        done = False
    else:
        say(f"  compiled in {time.perf_counter() - start:.0f} s")
        done = True
    loss.zero_grad(set_to_none=True)
    return config.replace({"compile": done})


def resolve_micro_batch_tokens(
    config: Config,
    loss: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    training: TokenDataset,
    device: torch.device,
    say: Say,
) -> Config:
    """The configuration with `micro_batch_tokens` set to a number whose step fits in memory; says what it will take."""
    release_freed_memory()  # it would be counted twice: as held, and as what the step will ask for
    with run_eagerly():
        memory = measure_memory(
            loss, optimizer, _sample_batch(training, device), collectives.local_size(), config.precision != "fp32"
        )
    batch_tokens = int(training.lengths.mean() * config.batch_size / collectives.world_size()) + config.model.max_len
    tokens = fit_micro_batch_tokens(memory, config.micro_batch_tokens, config.model.max_len, batch_tokens)
    tokens = -int(collectives.all_reduce_max(-tokens))  # alike in all processes
    say(memory.line(min(tokens, batch_tokens), collectives.local_size()))
    return config.replace({"micro_batch_tokens": tokens})


def _sample_batch(training: TokenDataset, device: torch.device) -> Batch:
    count = max(1, int(np.searchsorted(np.cumsum(training.lengths[:100]), SAMPLE_TOKENS)))
    (batch,) = pack_micro_batches(
        training, range(count), weigh_every_turn, 2 * SAMPLE_TOKENS + int(training.lengths[:100].max())
    )
    return batch_to_device(batch, device)


def describe_device(device: torch.device) -> str:
    """The device with its name, as cuda (NVIDIA H200)."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
