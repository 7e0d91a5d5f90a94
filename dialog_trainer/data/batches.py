"""Token sequences -> packed `Batch`es: the micro-batches of a step, with the loss weight of each token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from dialog_trainer.data.tables import TokenTable
from dialog_trainer.records import Batch, Role


def micro_batches(
    table: TokenTable, indices: Sequence[int], role_weights: Mapping[Role, float], max_tokens: int
) -> Iterator[Batch]:
    """Packs the sequences at `indices`, in order, into as few batches of at most `max_tokens` as that order allows."""
    for part in _parts(table.lengths[np.asarray(indices, dtype=np.int64)], max_tokens):
        ids, roles, _, lengths = table.columns(indices[part])
        yield pack(ids, roles, lengths, role_weights)


def pack(ids: np.ndarray, roles: np.ndarray, lengths: np.ndarray, role_weights: Mapping[Role, float]) -> Batch:
    """One `Batch` of flat `ids` and `roles` `(N,)`; a role that `role_weights` does not name weighs 0."""
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    weight_of_role = np.zeros(len(Role), dtype=np.float32)
    for role, weight in role_weights.items():
        weight_of_role[role] = weight
    weights = np.where(positions > 0, weight_of_role[roles], np.float32(0))
    return Batch(
        ids=torch.from_numpy(ids.astype(np.int64)),
        roles=torch.from_numpy(roles.astype(np.int64)),
        positions=torch.from_numpy(positions),
        weights=torch.from_numpy(weights),
        lengths=tuple(int(length) for length in lengths),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    tensors = (batch.ids, batch.roles, batch.positions, batch.weights)
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors), lengths=batch.lengths)


def _parts(lengths: np.ndarray, max_tokens: int) -> Iterator[slice]:
    first, tokens = 0, 0
    for index, length in enumerate(lengths):
        if index > first and tokens + length > max_tokens:
            yield slice(first, index)
            first, tokens = index, 0
        tokens += int(length)
    if first < len(lengths):
        yield slice(first, len(lengths))
