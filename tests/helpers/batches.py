"""Packed batches of random tokens."""

import numpy as np
import torch

from dialog_trainer.data.packing import pack_sequences
from dialog_trainer.types import NUM_TURN_BINS, Batch, Role, TurnSpans

ALL_TURNS = {Role.USER: 1.0, Role.ASSISTANT: 1.0, Role.END: 1.0}
LENGTHS = (9, 3, 14, 6)
VOCABULARY = 303


def random_batches(lengths: list[int], seed: int) -> list[Batch]:
    """One batch for each sequence: weights 0, 0.25 and 1, random roles and turns, a divisor that is not their sum."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for length in lengths:
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator)
        weights = torch.tensor([0.0, 0.25, 1.0])[torch.randint(0, 3, (length,), generator=generator)]
        weights[0] = 0.0
        roles, turns = (
            torch.randint(0, high, (length,), generator=generator) for high in (len(Role), NUM_TURN_BINS + 3)
        )
        batches.append(Batch(ids, roles, turns, torch.arange(length), weights, (length,), 0.75 * length))
    return batches


def join_batches(batches: list[Batch]) -> Batch:
    names = ("ids", "roles", "turns", "positions", "weights")
    columns = [torch.cat([getattr(batch, name) for batch in batches]) for name in names]
    lengths = tuple(length for batch in batches for length in batch.lengths)
    return Batch(*columns, lengths=lengths, divisor=sum(batch.divisor for batch in batches))


def batch_of(lengths, weights=ALL_TURNS, divisor=None):
    """Sequences of fixed random ids, each `[CLS]` and turns of one token, the assistant's first.

    `divisor(lengths)` is by default the sum of the weights.
    """
    generator = np.random.default_rng(0)
    parts = [generator.integers(0, 300, length) for length in LENGTHS]
    ids = np.concatenate([parts[LENGTHS.index(length)] for length in lengths])
    turns = np.concatenate([np.arange(length) for length in lengths])
    roles = np.where(turns == 0, Role.FORMAT, turns % 2 + 1)
    ones = np.ones(len(ids), dtype=np.int64)
    spans = TurnSpans(roles, turns, ones, 0 * ones, ones.astype(np.float32), np.array(lengths), np.arange(len(lengths)))
    token_weights = np.array([weights.get(role, 0.0) for role in roles], dtype=np.float32)
    return pack_sequences(
        ids, spans, lambda _: (token_weights, float(token_weights.sum()) if divisor is None else divisor(lengths))
    )
