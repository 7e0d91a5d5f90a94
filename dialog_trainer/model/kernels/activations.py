"""The same arithmetic in fewer passes: the activation and the dropout of a model, exchanged for faster ones.

The weights, and what a checkpoint says of the model, stay.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import gelu
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

_GELU = 2 * (2 / torch.pi) ** 0.5


def fuse_activations(model: PreTrainedModel) -> None:
    """Exchanges what there is to exchange, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is NewGELUActivation:
                setattr(parent, name, TanhGelu())
            elif type(child) is torch.nn.Dropout:
                setattr(parent, name, BitDropout(child.p))


class TanhGelu(torch.nn.Module):
    """transformers' `gelu_new`, which makes a pass for each of its operations, in one."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():  # (1 + tanh u) / 2 = sigmoid 2u, whose compiled code takes half the time
            return values * torch.sigmoid(values * (_GELU + 0.044715 * _GELU * values * values))
        return gelu(values, approximate="tanh")


class BitDropout(torch.nn.Dropout):
    """Dropout on the CPU, its noise from 16 random bits a value: torch draws a number for each, and takes 10 ms of
    a core for 1.6 million values; this takes 2 (one AMD EPYC).

    The probability is rounded to 1/65536, and the values that stay are scaled by what it then is.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return super().forward(values)
        if torch.compiler.is_compiling():
            return values * _keep_mask_op(values, self.p) * keep_scale(self.p)
        return _BitDropoutFunction.apply(values, draw_keep_mask(values.shape, self.p), keep_scale(self.p))


def draw_keep_mask(shape: torch.Size | tuple[int, ...], p: float) -> torch.Tensor:
    """Which values stay (bool)."""
    kept = torch.empty(shape, dtype=torch.int8)  # comparing into it, and reading it, is several times faster than bool
    return torch.ge(draw_noise_bits(math.prod(shape)).view(shape), keep_threshold(p), out=kept).view(torch.bool)


def draw_noise_bits(count: int) -> torch.Tensor:
    """`(count,)` int16, drawn from torch's generator, each number as likely."""
    return torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]


def keep_threshold(p: float) -> int:
    """The smallest of the numbers of `noise_bits` whose values stay."""
    return round(p * 65536) - 32768


def keep_scale(p: float) -> float:
    """By what the values that stay are multiplied."""
    return 65536 / (65536 - round(p * 65536))


@torch.library.custom_op(
    "dialog_trainer::kept", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)  # compiled code calls it, and neither looks into it nor makes one of two calls
def _keep_mask_op(like: torch.Tensor, p: float) -> torch.Tensor:
    return draw_keep_mask(like.shape, p)


@_keep_mask_op.register_fake
def _(like: torch.Tensor, p: float) -> torch.Tensor:
    return like.new_empty(like.shape, dtype=torch.bool)


class _BitDropoutFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, kept, scale):
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _apply_keep_mask(values, kept, scale)

    @staticmethod
    def backward(ctx, gradient):
        (kept,) = ctx.saved_tensors
        return _apply_keep_mask(gradient, kept, ctx.scale), None, None


def _apply_keep_mask(values: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    return kept.view(torch.int8).to(values.dtype).mul_(values).mul_(scale)
