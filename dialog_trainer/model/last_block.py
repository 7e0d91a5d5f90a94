"""The last block of a model, computed where its output is used.

After the attention of the last block no position reads another one, and the loss reads the states before the trained
tokens alone: about half, once the mask drops the user's turns. So the MLP of that block gets these positions alone, and
what its last layer gives is spread over all again: dropout after it draws as much noise as ever. The states that are
used, and all gradients, are the same; those of the other positions lack the MLP.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# Layers with weights that compute each position by itself.
_PER_POSITION = (torch.nn.Linear, Conv1D)
# Keyword argument of the model, which hands it to its blocks.
_USED = "used_positions"


def find_blocks(model: PreTrainedModel) -> list[torch.nn.Module]:
    names = model._no_split_modules or ()
    return [block for block in model.modules() if type(block).__name__ in names]


def trim_last_block(model: PreTrainedModel) -> bool:
    """Lets the last block compute the used positions alone, where a pass names them; returns whether its shape allows it.

    It does with an `mlp` of its own whose weights are all in layers that compute each position by itself (no mixture of
    experts), without dropout before or in them (of an adapter), whose noise would be another one. A new shape is to be probed.
    """
    blocks = find_blocks(model)
    mlp = getattr(blocks[-1], "mlp", None) if blocks else None
    if not isinstance(mlp, torch.nn.Module):
        return False
    weighted = [layer for layer in mlp.modules() if next(layer.parameters(recurse=False), None) is not None]
    if not all(isinstance(layer, _PER_POSITION) for layer in weighted):
        return False
    children = [child for child in mlp.children() if next(child.parameters(), None) is not None]
    noisy = any(isinstance(layer, torch.nn.Dropout) and layer.p for child in children for layer in child.modules())
    shared = any(mlp is layer for block in blocks[:-1] for layer in block.modules())
    if not children or noisy or shared:
        return False
    model.last_block = _TrimmedBlock(blocks[-1], mlp, children[-1])  # type: ignore[assignment]  # an attribute of our own
    return True


def restore_last_block(model: PreTrainedModel) -> None:
    """Reverts `trim_last_block`."""
    trimmed: _TrimmedBlock | None = getattr(model, "last_block", None)
    if trimmed is not None:
        trimmed.remove()
        model.last_block = None  # type: ignore[assignment]  # an attribute of our own


def last_block_options(model: PreTrainedModel, used: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Keyword arguments of the model for a pass of which only the states of the `used` positions `(M,)` are read."""
    if used is None or len(used) == 0 or getattr(model, "last_block", None) is None:
        return {}
    return {_USED: used}


class _TrimmedBlock:
    """The hooks of a trimmed block. `last`: the last child of its MLP with weights, an adapter's too.

    `used` `(M,)`: the positions of the pass that runs, None for all; `count`: how many it has.
    """

    def __init__(self, block: torch.nn.Module, mlp: torch.nn.Module, last: torch.nn.Module) -> None:
        self.used: torch.Tensor | None = None
        self.count = 0
        self._handles = (
            block.register_forward_pre_hook(self._enter, with_kwargs=True),
            mlp.register_forward_pre_hook(self._select),
            last.register_forward_hook(self._spread),
        )

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, block: torch.nn.Module, args: Any, options: dict[str, Any]) -> None:
        # Stays for the backward pass: what activation checkpointing computes again does not pass here.
        self.used = options.get(_USED)

    def _select(self, mlp: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (states,) = args
        self.count = states.shape[1]
        return args if self.used is None else (states.index_select(1, self.used),)

    def _spread(self, layer: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        if self.used is None:
            return output
        return output.new_zeros(1, self.count, output.shape[2]).index_copy(1, self.used, output)
