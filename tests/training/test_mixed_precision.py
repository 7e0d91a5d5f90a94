"""An update in mixed precision."""

import copy
from collections import Counter
from dataclasses import replace
from functools import partial

import torch
from helpers.batches import batch_of
from torch.utils._python_dispatch import TorchDispatchMode

from dialog_trainer.model.loss import PackedLoss
from dialog_trainer.training.loop import train_step
from tests.training.test_loop import learner_of


class _Casts(TorchDispatchMode):
    """Counts the casts to bf16 of tensors of each shape."""

    def __init__(self):
        super().__init__()
        self.shapes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and found.dtype == torch.bfloat16:
            self.shapes[tuple(found.shape)] += 1
        return found


def test_mixed_precision_casts_each_weight_once_an_update(tiny_model):
    """And has the same bits as a context around each pass, as torch's recipes have it."""
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    other, batches = copy.deepcopy(tiny_model), [batch_of(part) for part in ((9, 3), (14,), (6,))]
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    learner = replace(learner_of(tiny_model, optimizer), autocast=autocast)
    with _Casts() as casts:
        train_step(learner, batches, step=3, lr=0.1, max_grad_norm=None)
    layer = tiny_model.transformer.h[0]
    for weight in (layer.attn.c_attn.weight, layer.mlp.c_fc.weight, layer.mlp.c_proj.weight):
        assert casts.shapes[tuple(weight.shape)] == len(tiny_model.transformer.h)
    for batch in batches:
        with autocast():
            nats, _ = PackedLoss(other)(batch)
        (nats / sum(batch.divisor for batch in batches)).backward()
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter.grad, tiny_model.get_parameter(name).grad), name
