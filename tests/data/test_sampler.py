"""The sampler: every sequence once per epoch, the same order and shards everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialog_trainer.data.sampler import epoch_order, global_batch_indices, local_shard, steps_per_epoch
from dialog_trainer.seeds import derive_seed


@pytest.mark.parametrize(("sequences", "batch_size", "steps"), [(10, 3, 4), (9, 3, 3), (1, 5, 1), (100, 100, 1)])
def test_an_epoch_holds_every_sequence_once(sequences, batch_size, steps):
    assert steps_per_epoch(sequences, batch_size) == steps
    for epoch in (0, 1, 7):
        batches = [global_batch_indices(3, epoch * steps + step, sequences, batch_size) for step in range(steps)]
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (steps - 1)
        assert sorted(np.concatenate(batches)) == list(range(sequences))


def test_order_depends_on_seed_and_epoch_only():
    orders = {(seed, epoch): epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)}
    epoch_order.cache_clear()
    np.random.default_rng(0).random(9)
    assert len({tuple(order) for order in orders.values()}) == 4
    again = epoch_order(1, 1, 50)
    assert again.tolist() == orders[1, 1]
    with pytest.raises(ValueError, match="read-only"):
        again.sort()


def test_golden_order_and_seed():
    """Other numbers change every run, and break exact resume across versions."""
    assert epoch_order(0, 0, 8).tolist() == [5, 3, 6, 4, 1, 0, 2, 7]
    assert derive_seed("step", 0, 0, 0) == 8030096487280224385


LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@given(LENGTHS, st.integers(1, 9))
def test_shards_are_a_partition_with_about_equal_tokens(lengths, size):
    shards = [local_shard(lengths, size, rank) for rank in range(size)]
    assert sorted(np.concatenate(shards)) == list(range(len(lengths)))
    tokens = [sum(lengths[place] for place in own) for own in shards]
    assert max(tokens) - min(tokens) <= max(lengths, default=0)
    for own in shards:
        assert own.dtype == np.int64
        assert (np.diff(own) > 0).all()


@given(LENGTHS)
def test_one_rank_takes_all_in_order(lengths):
    assert local_shard(lengths, 1, 0).tolist() == list(range(len(lengths)))


@given(st.lists(st.integers(1, 300), max_size=8))
def test_fewer_sequences_than_ranks(lengths):
    assert sorted(len(local_shard(lengths, 9, rank)) for rank in range(9)) == [0] * (9 - len(lengths)) + [1] * len(
        lengths
    )


def test_golden_shards():
    """With other shards a run on several ranks does not resume exactly."""
    assert [local_shard([5, 9, 9, 2, 7, 1], 2, rank).tolist() for rank in range(2)] == [[1, 4, 5], [0, 2, 3]]
    assert local_shard(np.array([4, 4, 4, 4]), 2, 1).tolist() == [1, 3]
