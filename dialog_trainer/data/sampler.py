"""The order of training: which sequences make the batch of a step, a pure function of (seed, step); and who takes which."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on `parts` alone, the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def steps_per_epoch(num_sequences: int, batch_size: int) -> int:
    """The last, shorter batch of an epoch is kept."""
    return -(-num_sequences // batch_size)


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, num_sequences: int) -> np.ndarray:
    """A random order of all sequences, `(num_sequences,)` int64; read-only."""
    order = np.random.Generator(np.random.PCG64(derive_seed("order", seed, epoch))).permutation(num_sequences)
    order.flags.writeable = False
    return order


def global_batch_indices(seed: int, step: int, num_sequences: int, batch_size: int) -> np.ndarray:
    """Indices of the sequences of the global batch of `step`."""
    epoch, position = divmod(step, steps_per_epoch(num_sequences, batch_size))
    return epoch_order(seed, epoch, num_sequences)[position * batch_size : (position + 1) * batch_size]


def local_shard(lengths: Sequence[int], size: int, rank: int) -> np.ndarray:
    """The places, ascending, in `lengths` that process `rank` of `size` takes: about as many tokens for each.

    The longest goes first, to the process that has least so far. Of few, some processes get none.
    """
    if size == 1:
        return np.arange(len(lengths))
    taken = [(0, process) for process in range(size)]
    own = []
    for place in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        tokens, process = heapq.heappop(taken)
        if process == rank:
            own.append(place)
        heapq.heappush(taken, (tokens + int(lengths[place]), process))
    return np.array(sorted(own), dtype=np.int64)
