"""Activation and dropout modules that compute the same in fewer passes over memory; weights and checkpoints are unchanged."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import gelu
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

_GELU_FACTOR = 2 * (2 / torch.pi) ** 0.5


def fuse_activations(model: PreTrainedModel) -> None:
    """Replaces each `gelu_new` and each dropout of the model, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is NewGELUActivation:
                setattr(parent, name, TanhGelu())
            elif type(child) is torch.nn.Dropout:
                setattr(parent, name, BitDropout(child.p))


class TanhGelu(torch.nn.Module):
    """transformers' `gelu_new` as one operation in place of eight."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():  # (1 + tanh u) / 2 = sigmoid 2u compiles to code that takes half the time
            return values * torch.sigmoid(values * (_GELU_FACTOR + 0.044715 * _GELU_FACTOR * values * values))
        return gelu(values, approximate="tanh")


class BitDropout(torch.nn.Dropout):
    """Dropout whose noise on the CPU is 16 random bits a value, four values to a 64-bit draw.

    torch draws one number a value: 10 ms of a core for 1.6 million values, against 2 ms here (one AMD EPYC). The
    probability is rounded to 1/65536, and the scale is that of the rounded probability.

    Example, p = 0.1: a value's bits are one of the 65,536 numbers from -32,768 to 32,767. The lowest round(6,553.6) =
    6,554 of them drop the value, so that it stays from `keep_threshold` = -26,214 on. The 58,982 others keep it, times
    `keep_scale` = 65,536 / 58,982.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return super().forward(values)
        if torch.compiler.is_compiling():
            keep: torch.Tensor = _keep_mask_op(values, self.p)
            return values * keep * keep_scale(self.p)
        mask = draw_keep_mask(values.shape, self.p)
        dropped: torch.Tensor = _ApplyKeepMask.apply(values, mask, keep_scale(self.p))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return dropped


def draw_keep_mask(shape: torch.Size | tuple[int, ...], p: float) -> torch.Tensor:
    """A bool tensor, true with probability 1 - p: the values that stay."""
    mask = torch.empty(shape, dtype=torch.int8)  # to compare into int8, and to multiply by it, is several times faster
    return torch.ge(draw_noise_bits(math.prod(shape)).view(shape), keep_threshold(p), out=mask).view(torch.bool)


def draw_noise_bits(count: int) -> torch.Tensor:
    """`(count,)` uniform int16 from torch's generator."""
    return torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]


def keep_threshold(p: float) -> int:
    """The smallest number of `draw_noise_bits` that keeps a value."""
    return round(p * 65536) - 32768


def keep_scale(p: float) -> float:
    """The factor of the values that stay."""
    return 65536 / (65536 - round(p * 65536))


# An operation of its own: compiled code calls it, instead of tracing into it or merging two calls into one.
@torch.library.custom_op(
    "dialog_trainer::dropout_keep_mask", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _keep_mask_op(like: torch.Tensor, p: float) -> torch.Tensor:
    return draw_keep_mask(like.shape, p)


@_keep_mask_op.register_fake
def _(like: torch.Tensor, p: float) -> torch.Tensor:
    return like.new_empty(like.shape, dtype=torch.bool)


class _ApplyKeepMask(torch.autograd.Function):
    """`values * mask * scale`, saving one byte a value for the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return _multiply(values, mask, scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return _multiply(gradient, mask, ctx.scale), None, None


def _multiply(values: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    return mask.view(torch.int8).to(values.dtype).mul_(values).mul_(scale)
