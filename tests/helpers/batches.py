"""Packed batches of random tokens."""

import numpy as np
import torch

from dialog_trainer.data.packing import pack_sequences
from dialog_trainer.types import NUM_TURN_BINS, Batch, Role, TurnSpans

ALL_TURNS = {Role.USER: 1.0, Role.ASSISTANT: 1.0, Role.END: 1.0}
LENGTHS = (9, 3, 14, 6)
VOCABULARY = 303


def pieces(lengths: list[int], seed: int) -> list[Batch]:
    """One batch a sequence; weights 0, 0.25 and 1, roles and turns at random, and a divisor that is no sum of them."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for length in lengths:
        ids = torch.randint(0, VOCABULARY, (length,), generator=draw)
        weights = torch.tensor([0.0, 0.25, 1.0])[torch.randint(0, 3, (length,), generator=draw)]
        weights[0] = 0.0
        roles, turns = (torch.randint(0, high, (length,), generator=draw) for high in (len(Role), NUM_TURN_BINS + 3))
        made.append(Batch(ids, roles, turns, torch.arange(length), weights, (length,), 0.75 * length))
    return made


def joined(batches: list[Batch]) -> Batch:
    names = ("ids", "roles", "turns", "positions", "weights")
    columns = [torch.cat([getattr(batch, name) for batch in batches]) for name in names]
    lengths = tuple(length for batch in batches for length in batch.lengths)
    return Batch(*columns, lengths=lengths, divisor=sum(batch.divisor for batch in batches))


def batch_of(lengths, weights=ALL_TURNS, divisor=None):
    """Sequences of random ids, each `[CLS]` and turns of one token, the first of them the assistant's; the same for the
    same arguments. Without `divisor`, that is the sum of the weights."""
    draw = np.random.default_rng(0)
    parts = [draw.integers(0, 300, length) for length in LENGTHS]
    ids = np.concatenate([parts[LENGTHS.index(length)] for length in lengths])
    turns = np.concatenate([np.arange(length) for length in lengths])
    roles = np.where(turns == 0, Role.START, turns % 2 + 1)
    ones = np.ones(len(ids), dtype=np.int64)
    spans = TurnSpans(roles, turns, ones, 0 * ones, ones.astype(np.float32), np.array(lengths), np.arange(len(lengths)))
    of_token = np.array([weights.get(role, 0.0) for role in roles], dtype=np.float32)
    return pack_sequences(
        ids, spans, lambda spans: (of_token, float(of_token.sum()) if divisor is None else divisor(lengths))
    )
