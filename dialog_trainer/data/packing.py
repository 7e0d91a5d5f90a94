"""Token sequences -> packed `Batch`es: the micro-batches of a step, with the loss weight of each token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.types import Batch, TurnSpans

# The loss weight of each token of some sequences, `(N,)`, and what these add to the divisor of the loss.
LossWeightFunction = Callable[[TurnSpans], tuple[np.ndarray, float]]


def pack_micro_batches(
    table: TokenDataset, indices: Sequence[int], weigh: LossWeightFunction, max_tokens: int
) -> Iterator[Batch]:
    """Packs the sequences at `indices`, in order, into as few batches of at most `max_tokens` as that order allows, and
    these about alike in tokens: the largest decides how much memory a step takes."""
    for part in _parts(table.lengths[np.asarray(indices, dtype=np.int64)], max_tokens):
        yield pack_sequences(*table.columns(indices[part]), weigh)


def pack_sequences(ids: np.ndarray, spans: TurnSpans, weigh: LossWeightFunction) -> Batch:
    """One `Batch` of flat `ids` `(N,)` and their runs."""
    lengths = spans.sum_by_sequence(spans.lengths)
    positions = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    weights, divisor = weigh(spans)
    return Batch(
        ids=torch.from_numpy(ids.astype(np.int64)),
        roles=torch.from_numpy(np.repeat(spans.roles, spans.lengths)),
        turns=torch.from_numpy(np.repeat(spans.turns, spans.lengths)),
        positions=torch.from_numpy(positions),
        weights=torch.from_numpy(weights),
        lengths=tuple(lengths.tolist()),
        divisor=divisor,
    )


def dummy_batch(device: torch.device) -> Batch:
    """Two tokens without weight: what a process computes that has nothing to do while others have. (Torch compiles anew
    for a length of one.)"""
    nothing = torch.zeros(2, dtype=torch.int64)
    return batch_to_device(
        Batch(nothing, nothing, nothing, torch.arange(2), torch.zeros(2), lengths=(2,), divisor=0.0), device
    )


def batch_to_device(batch: Batch, device: torch.device) -> Batch:
    tensors = [batch.ids, batch.roles, batch.turns, batch.positions, batch.weights, batch.targets]
    if device.type == "cuda":  # only from pinned memory does a copy run beside the work
        tensors = [tensor.pin_memory() for tensor in tensors]
    *moved, targets = (tensor.to(device, non_blocking=True) for tensor in tensors)
    return Batch(*moved, lengths=batch.lengths, divisor=batch.divisor, targets=targets)


def _parts(lengths: np.ndarray, max_tokens: int) -> list[slice]:
    fewest = len(list(_filled(lengths, max_tokens)))
    bounds = range(int(lengths.sum()) // max(1, fewest), max_tokens)
    evenly = bisect_left(bounds, -fewest, key=lambda bound: -len(list(_filled(lengths, bound))))
    return list(_filled(lengths, bounds[evenly] if evenly < len(bounds) else max_tokens))


def _filled(lengths: np.ndarray, max_tokens: int) -> Iterator[slice]:
    """One part after the other, each as full as it gets."""
    first, tokens = 0, 0
    for index, length in enumerate(lengths):
        if index > first and tokens + length > max_tokens:
            yield slice(first, index)
            first, tokens = index, 0
        tokens += int(length)
    if first < len(lengths):
        yield slice(first, len(lengths))
