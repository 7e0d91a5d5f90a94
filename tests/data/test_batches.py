from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.batches import micro_batches, pack
from dialog_trainer.records import Role


def test_pack():
    ids, roles = np.array([7, 8, 9, 5, 6]), np.array([Role.START, Role.USER, Role.ASSISTANT, Role.ASSISTANT, Role.END])
    batch = pack(ids, roles, np.array([3, 2]), {Role.USER: 0.25, Role.ASSISTANT: 1.0, Role.START: 1.0})
    assert batch.ids.tolist() == [7, 8, 9, 5, 6]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]
    # The first token of a sequence has nothing before it, and a role without a weight weighs 0.
    assert batch.weights.tolist() == [0, 0.25, 1, 0, 0]
    assert batch.lengths == (3, 2)
    assert batch.ids.dtype == batch.roles.dtype == batch.positions.dtype == torch.int64
    assert batch.weights.dtype == torch.float32


class Table:
    """Sequences of the given lengths; sequence `i` holds the id `i` throughout."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths)

    def columns(self, indices):
        lengths = self.lengths[list(indices)]
        ids = np.repeat(np.array(indices), lengths)
        return ids, np.full(len(ids), int(Role.USER)), np.zeros(len(ids)), lengths


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 40), st.randoms())
def test_micro_batches_hold_each_sequence_once_in_order_and_within_the_bound(lengths, max_tokens, draw):
    indices = np.array(draw.sample(range(len(lengths)), len(lengths)))
    batches = list(micro_batches(Table(lengths), indices, {Role.USER: 1.0}, max_tokens))
    # A sequence that is longer than the bound stands alone.
    assert all(len(batch.ids) <= max_tokens or len(batch.lengths) == 1 for batch in batches)
    ids = torch.cat([batch.ids for batch in batches])
    assert ids.tolist() == np.repeat(indices, np.array(lengths)[indices]).tolist()
    # As few as the order allows: two neighbours never fit into one.
    for first, second in pairwise(batches):
        assert len(first.ids) + second.lengths[0] > max_tokens


@pytest.mark.parametrize("weights", [{}, {Role.USER: 0.0}])
def test_nothing_trained_is_all_zero(weights):
    (batch,) = micro_batches(Table([3, 4]), np.array([0, 1]), weights, 10)
    assert batch.weights.tolist() == [0] * 7
