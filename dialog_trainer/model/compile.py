"""The blocks of a model, compiled by torch: one code for all of them, whatever the number of tokens."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch._dynamo import config as dynamo
from torch._dynamo.exc import TorchDynamoException
from torch._inductor import config as inductor
from torch._inductor.exc import CppCompileError
from torch.fx.experimental import _config as symbolic
from torch.utils._triton import has_triton
from transformers import PreTrainedModel

from dialog_trainer.model.packed_forward import ATTENTION

# What compiling may end in, beside faults of our own.
COMPILE_ERRORS = (TorchDynamoException, CppCompileError)


def can_compile(model: PreTrainedModel) -> bool:
    """Only packed batches are compiled: padded ones have another shape each time."""
    return model.config._attn_implementation == ATTENTION and bool(model._no_split_modules)


def compile_is_faster(on: torch.device) -> bool:
    """Whether compiled code is faster: on CUDA supposed; on a CPU measured, and not always (docs/performance.md)."""
    return on.type == "cuda" and has_triton() and torch.cuda.get_device_capability(on) >= (7, 0)


def compile_blocks(model: PreTrainedModel) -> None:
    """In place; each block compiles at its first pass that is not within `uncompiled`, and all share the result."""
    torch._dynamo.reset()  # a run of a sweep compiles what it would alone
    # In this process: one that torch starts for it, and that is killed, would be waited for without end.
    inductor.compile_threads = 1
    # A number of tokens that happens to be the width is no other kind of batch; blocks are not cut to DDP's buckets.
    symbolic.use_duck_shape = False
    dynamo.optimize_ddp = False
    for block in _blocks(model):
        block.compile(dynamic=True)


def uncompile_blocks(model: PreTrainedModel) -> None:
    """Undoes `compile_blocks`."""
    for block in _blocks(model):
        block._compiled_call_impl = None


def _blocks(model: PreTrainedModel) -> list[torch.nn.Module]:
    return [block for block in model.modules() if type(block).__name__ in model._no_split_modules]


def failure_reason(error: Exception) -> str:
    """The line of what failed that says most: torch puts a compiler's own words last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line.lower() or "no space" in line.lower()]
    return (told or lines or [type(error).__name__])[-1]


def run_eagerly() -> AbstractContextManager:
    """Within the block a model that `compile_blocks` has changed computes as before."""
    return torch.compiler.set_stance("force_eager")
