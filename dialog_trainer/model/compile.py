"""torch.compile of a model's blocks: they share their code, for any number of tokens."""

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

from dialog_trainer.model.last_block import find_blocks, restore_last_block
from dialog_trainer.model.packed_forward import ATTENTION, trim_where_exact

# What compilation raises, apart from errors in the model's own code.
COMPILE_ERRORS = (TorchDynamoException, CppCompileError)


def can_compile(model: PreTrainedModel) -> bool:
    """Whether the batches are packed: each padded batch has another shape and would compile again."""
    return model.config._attn_implementation == ATTENTION and bool(model._no_split_modules)


def compile_is_faster(device: torch.device) -> bool:
    """Assumed on CUDA; on a CPU measured, and not always true (docs/performance.md)."""
    return device.type == "cuda" and has_triton() and torch.cuda.get_device_capability(device) >= (7, 0)


def compile_blocks(model: PreTrainedModel) -> None:
    """Compiles each block in place, at its first pass outside `run_eagerly`; the first block's code serves all."""
    torch._dynamo.reset()  # a run of a sweep compiles as it would alone
    # In this process: torch would wait for ever for a compile worker that was killed.
    inductor.compile_threads = 1
    # Dynamic sizes that happen to be equal (tokens and width) stay different; blocks are not cut into DDP's buckets.
    symbolic.use_duck_shape = False
    dynamo.optimize_ddp = False
    restore_last_block(model)  # so that it is compiled as the others
    for block in find_blocks(model):
        block.compile(dynamic=True)


def uncompile_blocks(model: PreTrainedModel) -> None:
    """Lets the blocks of `compile_blocks` run without their compiled code."""
    for block in find_blocks(model):
        block._compiled_call_impl = None
    trim_where_exact(model)


def failure_reason(error: Exception) -> str:
    """The most informative line of a compile error: the last of the compiler's own, which torch puts at the end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    from_compiler = [line for line in lines if "error:" in line.lower() or "no space" in line.lower()]
    return (from_compiler or lines or [type(error).__name__])[-1]


def run_eagerly() -> AbstractContextManager[object]:
    """Within the block, compiled blocks run without their compiled code."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
