"""On what and how a step is computed: device, arithmetic, processes, memory, compiled or not. Settings end here too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from dialog_trainer import compiler
from dialog_trainer.data.batches import micro_batches, silent, to_device
from dialog_trainer.data.tables import TokenTable
from dialog_trainer.distributed import group, parallel
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.held_out import every_turn
from dialog_trainer.experiment import Say
from dialog_trainer.freed_memory import give_freed_memory_back
from dialog_trainer.model import compiled
from dialog_trainer.model.loss import Loss
from dialog_trainer.options import Settings
from dialog_trainer.records import Batch
from dialog_trainer.training.memory import fitting, measured

# Tokens of the small pass that measures a step's memory, and of the one that compiles it.
SAMPLE_TOKENS = 256
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_up_torch(deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic)
    # Nothing reads memory before it is written; to fill it was 2 % of a step at 124 M.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not deterministic


def device(settings: Settings) -> torch.device:
    """The device of `device`. Raises `ConfigError` if it is not there, or cannot do what `precision` asks."""
    wanted = settings["device"]
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if settings["device"] == "auto" and settings["processes"] > 1:
        wanted = "cpu"  # what `processes` means
    count = torch.cuda.device_count()
    if isinstance(wanted, list) or wanted == "cuda":
        indices = wanted if isinstance(wanted, list) else range(group.local_size())
        if max(indices) >= count or group.local_rank() >= len(indices):
            there = f"there are {count} CUDA devices" if count else "there is no CUDA device"
            here = f" for {group.local_size()} processes on this machine" if group.local_size() > 1 else ""
            raise ConfigError([f"device={settings['device']}: {there}{here}; use device=auto or device=cpu"])
        on = torch.device("cuda", indices[group.local_rank()])
        if settings["precision"] == "bf16" and torch.cuda.get_device_capability(on) < (8, 0):
            name = torch.cuda.get_device_name(on)
            raise ConfigError(
                [f"precision=bf16: {name} has no arithmetic for it; use precision=fp16 or precision=fp32"]
            )
        return on
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["device=mps: this machine has none; use device=auto or device=cpu"])
    return torch.device(wanted)


def autocast(settings: Settings, on: torch.device) -> Callable[[], AbstractContextManager]:
    if settings["precision"] == "fp32":
        return contextlib.nullcontext
    return partial(torch.autocast, on.type, dtype=_DTYPES[settings["precision"]])


def scaler(settings: Settings, on: torch.device) -> torch.amp.GradScaler:
    """Keeps the small gradients of fp16; of another precision it does nothing."""
    return torch.amp.GradScaler(on.type, enabled=settings["precision"] == "fp16")


def spread(settings: Settings, of: PreTrainedModel, on: torch.device) -> Loss:
    """The loss of the model, on all processes of the group; the optimizer is made after it."""
    with compiled.uncompiled():
        return parallel.spread(Loss(of), settings["parallel"], of._no_split_modules or (), silent(on))


def with_compile(settings: Settings, of: PreTrainedModel, on: torch.device, say: Say) -> Settings:
    """The settings with true, false, or auto for `compile`: auto where it pays, and may yet fail.

    But with false, the blocks of the model compile at their first pass.
    """
    wanted = settings["compile"]
    lack = next(filter(None, group.gathered(compiler.lacking())), None)  # all compile, or none
    if wanted == "auto":
        wanted = compiled.pays(on) and compiled.can(of) and not settings["activation_checkpointing"]
        if wanted and lack:
            say(f"note: not compiled, which would be faster: {lack}")
        wanted = "auto" if wanted and not lack else False
    elif wanted and lack:
        raise ConfigError([f"compile=true: {lack}, or use compile=false"])
    if wanted and not compiled.can(of):
        raise ConfigError([f"compile=true: {type(of).__name__} takes no packed attention; use compile=false"])
    if wanted:
        compiled.compile_blocks(of)
    return settings | {"compile": wanted}


def warmed_up(
    settings: Settings, loss: torch.nn.Module, of: PreTrainedModel, training: TokenTable, on: torch.device, say: Say
) -> Settings:
    """Compiles, where that is wanted, on a small batch; returns the settings with true or false for `compile`.

    With auto, a model that torch could not compile stays as it is; of several processes each would have to know.
    """
    if not settings["compile"]:
        return settings
    say("compiling (up to a minute at the first time, seconds with what is kept of it)")
    start = time.perf_counter()
    loss.train()
    try:
        with parallel.exchange(loss, last=True):
            with autocast(settings, on)():
                nats, _ = loss(_sample(training, on))
            nats.backward()
    except compiled.FAILURES as error:
        why, asked = f"torch could not: {compiled.reason(error)}", settings["compile"]
        if asked != "auto" or group.size() > 1:
            raise ConfigError([f"compile={str(asked).lower()}: {why}; use compile=false"]) from None
        compiled.leave_blocks(of)
        say(f"note: not compiled, which would be faster: {why}")
        done = False
    else:
        say(f"  compiled in {time.perf_counter() - start:.0f} s")
        done = True
    loss.zero_grad(set_to_none=True)
    return settings | {"compile": done}


def with_micro_batches(
    settings: Settings,
    loss: torch.nn.Module,
    of: torch.optim.Optimizer,
    training: TokenTable,
    on: torch.device,
    say: Say,
) -> Settings:
    """The settings with a number for `micro_batch_tokens` of which a step fits; says what it will take."""
    give_freed_memory_back()  # it would be counted twice: as held, and as what the step will ask for
    with compiled.uncompiled():
        memory = measured(loss, of, _sample(training, on), group.local_size())
    batch_tokens = int(training.lengths.mean() * settings["batch_size"] / group.size()) + settings["model"]["max_len"]
    tokens = fitting(memory, settings["micro_batch_tokens"], settings["model"]["max_len"], batch_tokens)
    tokens = -int(group.largest(-tokens))  # alike in all processes
    say(memory.line(min(tokens, batch_tokens), group.local_size()))
    return settings | {"micro_batch_tokens": tokens}


def _sample(training: TokenTable, on: torch.device) -> Batch:
    count = max(1, int(np.searchsorted(np.cumsum(training.lengths[:100]), SAMPLE_TOKENS)))
    (batch,) = micro_batches(training, range(count), every_turn, 2 * SAMPLE_TOKENS + int(training.lengths[:100].max()))
    return to_device(batch, on)
