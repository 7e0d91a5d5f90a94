"""The order of training: which sequences make the batch of a step. A pure function of (seed, step)."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on `parts` alone, the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def steps_per_epoch(num_sequences: int, batch_size: int) -> int:
    """The last, shorter batch of an epoch is kept."""
    return -(-num_sequences // batch_size)


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, num_sequences: int) -> np.ndarray:
    """A random order of all sequences, `(num_sequences,)` int64; read-only."""
    order = np.random.Generator(np.random.PCG64(seed_of("order", seed, epoch))).permutation(num_sequences)
    order.flags.writeable = False
    return order


def batch_indices(seed: int, step: int, num_sequences: int, batch_size: int) -> np.ndarray:
    """Indices of the sequences of the global batch of `step`."""
    epoch, position = divmod(step, steps_per_epoch(num_sequences, batch_size))
    return epoch_order(seed, epoch, num_sequences)[position * batch_size : (position + 1) * batch_size]
