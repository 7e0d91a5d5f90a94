"""Packing: order, sizes and weights of micro-batches."""

from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.packing import batch_to_device, pack_micro_batches, pack_sequences, weigh_every_turn
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.types import Role, TurnSpans

START, S, U, A, END = Role.FORMAT, Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.END
TENSORS = ("ids", "roles", "turns", "positions", "weights")


def make_turn_spans(*sequences: list[tuple]) -> TurnSpans:
    """The spans of sequences, each a list of `(role, turn, length)` or `(role, turn, length, weight)`."""
    flat = [(*span, 1.0)[:4] for sequence in sequences for span in sequence]
    roles, turns, lengths, weights = (np.array([span[place] for span in flat]) for place in range(4))
    counts = np.array([len(sequence) for sequence in sequences])
    columns = (roles.astype(np.int64), turns, lengths, np.zeros_like(lengths), weights.astype(np.float32))
    return TurnSpans(*columns, counts, np.arange(len(counts)))


def weigh_user_turns(spans: TurnSpans) -> tuple[np.ndarray, float]:
    """Weight 0.25 for each token of a user."""
    weights = np.repeat(np.where(spans.roles == U, 0.25, 0.0), spans.lengths).astype(np.float32)
    return weights, float(weights.sum())


def test_pack_lays_spans_out_as_tokens():
    first = [(START, 0, 1), (U, 0, 2), (A, 1, 0), (A, 2, 1), (END, 2, 1)]  # turn 1 lost all its tokens
    second = [(START, 3, 1), (U, 3, 1), (END, 3, 0)]
    batch = pack_sequences(np.array([7, 8, 9, 5, 6, 7, 4]), make_turn_spans(first, second), weigh_user_turns)
    assert batch.ids.tolist() == [7, 8, 9, 5, 6, 7, 4]
    assert batch.roles.tolist() == [START, U, U, A, END, START, U]
    assert batch.turns.tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert batch.weights.tolist() == [0, 0.25, 0.25, 0, 0, 0, 0.25]
    assert (batch.lengths, batch.divisor) == ((5, 2), 0.75)
    assert {name: getattr(batch, name).dtype for name in TENSORS} == dict.fromkeys(TENSORS, torch.int64) | {
        "weights": torch.float32
    }


def test_divisor_comes_from_the_weight_function():
    spans = make_turn_spans([(START, 0, 1), (U, 0, 2)])
    batch = pack_sequences(np.arange(3), spans, lambda spans: (np.array([0, 1, 1], dtype=np.float32), 17.5))
    assert (batch.weights.tolist(), batch.divisor) == ([0, 1, 1], 17.5)


@pytest.mark.parametrize("normalize", ["token", "fixed", "turn"])
def test_mask_gives_the_weights(normalize):
    spans = make_turn_spans(
        [(START, 0, 1), (U, 0, 3), (A, 1, 2, 0.5), (END, 1, 1)], [(START, 0, 1), (S, 0, 2), (A, 1, 4)]
    )
    mask = Mask(lambda progress: RoleWeights(0.25), normalize=normalize)
    batch = pack_sequences(np.arange(14), spans, partial(mask.weigh_tokens, role_weights=mask.weigh_roles(0.0)))
    # Of each token: its weight, and the number of tokens of its turn, to which the end belongs.
    expected = [(0, 1), *[(0.25, 3)] * 3, *[(0.5, 3)] * 2, (1, 3), (0, 1), *[(0, 2)] * 2, *[(1, 4)] * 4]
    weights = [weight / size if normalize == "turn" else weight for weight, size in expected]
    assert batch.weights.tolist() == pytest.approx(weights)
    assert batch.divisor == pytest.approx(14 if normalize == "fixed" else sum(weights))


def test_batch_to_device_keeps_all_fields():
    batch = pack_sequences(np.array([7, 8, 9]), make_turn_spans([(START, 1, 1), (U, 1, 2)]), weigh_user_turns)
    moved = batch_to_device(batch, torch.device("meta"))
    assert (moved.lengths, moved.divisor) == (batch.lengths, batch.divisor)
    for name in TENSORS:
        assert getattr(moved, name).device.type == "meta"
        assert (getattr(moved, name).dtype, getattr(moved, name).shape) == (getattr(batch, name).dtype, (3,))
    again = batch_to_device(batch, torch.device("cpu"))
    assert all(torch.equal(getattr(again, name), getattr(batch, name)) for name in TENSORS)


class Dataset:
    """Sequences of the given lengths; sequence `i` holds the id `i` throughout, and is turn `i` of a user."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths)

    def columns(self, indices):
        lengths = self.lengths[list(indices)]
        spans = make_turn_spans(*([(U, int(i), int(length))] for i, length in zip(indices, lengths, strict=True)))
        return np.repeat(np.array(indices), lengths), spans


def fewest(lengths, max_tokens):
    """The fewest batches in this order; a sequence that is longer than the bound is a batch alone."""
    batches, room = 0, 0
    for length in lengths:
        if length > room:
            batches, room = batches + 1, max_tokens
        room -= length
    return batches


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 40), st.randoms())
def test_micro_batches_are_few_even_and_in_order(lengths, max_tokens, draw):
    indices = np.array(draw.sample(range(len(lengths)), len(lengths)))
    batches = list(pack_micro_batches(Dataset(lengths), indices, weigh_user_turns, max_tokens))
    # A sequence that is longer than the bound is a batch alone.
    assert all(len(batch.ids) <= max_tokens or len(batch.lengths) == 1 for batch in batches)
    expected = np.repeat(indices, np.array(lengths)[indices]).tolist()
    assert torch.cat([batch.ids for batch in batches]).tolist() == expected
    assert torch.cat([batch.turns for batch in batches]).tolist() == expected
    assert [length for batch in batches for length in batch.lengths] == [lengths[index] for index in indices]
    assert sum(batch.divisor for batch in batches) == 0.25 * sum(lengths)
    in_order = [lengths[index] for index in indices]
    assert len(batches) == fewest(in_order, max_tokens)
    # As even as that number of batches allows: with a lower bound there would be more of them.
    largest = max(len(batch.ids) for batch in batches)
    assert largest <= max(lengths) or fewest(in_order, largest - 1) > len(batches)
    for batch in batches:
        starts = [0, *accumulate(batch.lengths)]
        assert batch.positions.tolist() == [p - start for start, end in pairwise(starts) for p in range(start, end)]


def test_no_sequences_make_no_batch():
    assert list(pack_micro_batches(Dataset([3]), np.array([], dtype=np.int64), weigh_user_turns, 10)) == []


def test_untrained_sequences_have_weight_zero():
    weigh = partial(Mask(lambda progress: RoleWeights(0.0)).weigh_tokens, role_weights=RoleWeights(0.0))
    (batch,) = pack_micro_batches(Dataset([3, 4]), np.array([0, 1]), weigh, 10)
    assert batch.weights.tolist() == [0] * 7
    assert batch.divisor == 0


def test_each_target_weighs_1():
    spans = make_turn_spans([(START, 0, 1), (S, 0, 2), (U, 0, 3), (A, 1, 2, 0.0), (END, 1, 1)])
    weights, divisor = weigh_every_turn(spans)
    assert weights.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert divisor == 6
