"""The blocks of a model, compiled by torch: one code for all of them, whatever the number of tokens."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor import config as inductor
from torch._inductor.exc import CppCompileError
from transformers import PreTrainedModel

from dialog_trainer.model.packed import ATTENTION

# What compiling may end in, beside faults of our own.
FAILURES = (TorchDynamoException, CppCompileError)
# On the CPU: below, compiled code is not faster (docs/performance.md).
LEAST_PARAMETERS = 10**7
# Operations of a training that takes three times as long as compiling needs to pay for itself: 86,000 tokens at 124 M.
LEAST_OPERATIONS = 2e14


def can(model: PreTrainedModel) -> bool:
    """Only packed batches are compiled: padded ones have another shape each time."""
    return model.config._attn_implementation == ATTENTION and bool(model._no_split_modules)


def pays(device: str, parameters: int, tokens: float) -> bool:
    """Whether a training over `tokens` is shorter if it is compiled first: on the CPU measured, on CUDA supposed."""
    if device == "cuda":
        return True
    return device == "cpu" and parameters >= LEAST_PARAMETERS and 6 * parameters * tokens >= LEAST_OPERATIONS


def compile_blocks(model: PreTrainedModel) -> None:
    """In place; each block compiles at its first pass that is not within `uncompiled`, and all share the result."""
    # In this process: one that torch starts for it, and that is killed, would be waited for without end.
    inductor.compile_threads = 1
    for block in model.modules():
        if type(block).__name__ in model._no_split_modules:
            block.compile(dynamic=True)


def uncompiled() -> AbstractContextManager:
    """Within the block a model that `compile_blocks` has changed computes as before."""
    return torch.compiler.set_stance("force_eager")
