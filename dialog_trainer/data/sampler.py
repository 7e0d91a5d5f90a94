"""Deterministic sampler: the global batch of a step as a pure function of (seed, step), and its split over ranks."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dialog_trainer.seeds import derive_seed


def steps_per_epoch(num_sequences: int, batch_size: int) -> int:
    """The number of batches of an epoch, including the last, shorter one."""
    return -(-num_sequences // batch_size)


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, num_sequences: int) -> np.ndarray:
    """A random permutation of all sequences, `(num_sequences,)` int64, read-only."""
    order = np.random.Generator(np.random.PCG64(derive_seed("order", seed, epoch))).permutation(num_sequences)
    order.flags.writeable = False
    return order


def global_batch_indices(seed: int, step: int, num_sequences: int, batch_size: int) -> np.ndarray:
    """Indices of the sequences of the global batch of `step`, `(batch_size,)` int64 or fewer at the end of an epoch."""
    epoch, position = divmod(step, steps_per_epoch(num_sequences, batch_size))
    return epoch_order(seed, epoch, num_sequences)[position * batch_size : (position + 1) * batch_size]


def local_shard(lengths: Sequence[int] | np.ndarray, world_size: int, rank: int) -> np.ndarray:
    """The shard of `rank`: ascending positions in `lengths`, int64, with about as many tokens as every other shard.

    Each position is in one shard, of whole sequences: the longest first, to the rank with the fewest tokens so far.
    With fewer sequences than ranks, some shards are empty.
    """
    if world_size == 1:
        return np.arange(len(lengths))
    loads = [(0, owner) for owner in range(world_size)]
    own = []
    for position in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        tokens, owner = heapq.heappop(loads)
        if owner == rank:
            own.append(position)
        heapq.heappush(loads, (tokens + int(lengths[position]), owner))
    return np.array(sorted(own), dtype=np.int64)
