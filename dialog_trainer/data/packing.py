"""Packing: token sequences -> the micro-batches of a step, without padding, with the loss weight of each token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.types import Batch, Role, TurnSpans

# The spans of some sequences -> the loss weight of each token, `(N,)` float32, and their part of the loss's divisor.
LossWeightFunction = Callable[[TurnSpans], tuple[np.ndarray, float]]


def weigh_every_turn(spans: TurnSpans) -> tuple[np.ndarray, float]:
    """Loss weight 1 for each token of a user, an assistant or an end: `(N,)`, and their number."""
    weights = np.isin(spans.roles, (Role.USER, Role.ASSISTANT, Role.END)).astype(np.float32)
    return np.repeat(weights, spans.lengths), float((weights * spans.lengths).sum())


def pack_micro_batches(
    dataset: TokenDataset, indices: Sequence[int] | np.ndarray, weigh: LossWeightFunction, max_tokens: int
) -> Iterator[Batch]:
    """Packs the sequences at `indices`, in order, into as few batches of at most `max_tokens` tokens as possible.

    Their sizes are about equal, because the largest decides the memory of a step. A longer sequence forms a batch of its own.
    """
    indices = np.asarray(indices, dtype=np.int64)
    for part in _divide(dataset.lengths[indices], max_tokens):
        yield pack_sequences(*dataset.columns(indices[part]), weigh)


def pack_sequences(ids: np.ndarray, spans: TurnSpans, weigh: LossWeightFunction) -> Batch:
    """One `Batch` of flat `ids` `(N,)` and their spans."""
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
    """Two tokens without weight, for a rank without sequences (torch would recompile for a length of one)."""
    zeros = torch.zeros(2, dtype=torch.int64)
    batch = Batch(zeros, zeros, zeros, torch.arange(2), torch.zeros(2), lengths=(2,), divisor=0.0)
    return batch_to_device(batch, device)


def batch_to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; to CUDA, copies overlap with computation."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        pinned = tensor.pin_memory() if device.type == "cuda" else tensor  # only pinned memory is copied asynchronously
        return pinned.to(device, non_blocking=True)

    return replace(
        batch,
        ids=move(batch.ids),
        roles=move(batch.roles),
        turns=move(batch.turns),
        positions=move(batch.positions),
        weights=move(batch.weights),
        targets=move(batch.targets),
    )


def _divide(lengths: np.ndarray, max_tokens: int) -> list[slice]:
    """Slices of at most `max_tokens` tokens: as few as possible, with the lowest maximum that allows so few."""
    fewest = len(list(_fill(lengths, max_tokens)))
    bounds = range(int(lengths.sum()) // max(1, fewest), max_tokens)
    lowest = bisect_left(bounds, -fewest, key=lambda bound: -len(list(_fill(lengths, bound))))
    return list(_fill(lengths, bounds[lowest] if lowest < len(bounds) else max_tokens))


def _fill(lengths: np.ndarray, max_tokens: int) -> Iterator[slice]:
    """Consecutive slices, each as full as it gets."""
    first, tokens = 0, 0
    for index, length in enumerate(lengths):
        if index > first and tokens + length > max_tokens:
            yield slice(first, index)
            first, tokens = index, 0
        tokens += int(length)
    if first < len(lengths):
        yield slice(first, len(lengths))
