from functools import reduce
from operator import add

import numpy as np
import pytest
from helpers.masks import A, Talk, U, lay_out, layouts, slow_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.masking.coverage import MaskCounts, compute_trained_fraction, count_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.types import NUM_TURN_BINS, Role

MASK = Mask(lambda progress: RoleWeights(progress))
POINTS = (RoleWeights(1.0), RoleWeights(0.0), RoleWeights(0.5, 0.0), RoleWeights(0.0, random_roles=True))


def counts_of(layout, places=None, points=POINTS):
    _, spans = layout.arrays(places)
    return count_coverage(spans, [MASK.weigh_spans(spans, point) for point in points])


def as_lists(counts):
    """All counts as lists, which compare."""
    return {name: np.asarray(getattr(counts, name)).tolist() for name in MaskCounts.__slots__}


def role_turn_sums():
    return [[0] * NUM_TURN_BINS for _ in Role]


def slow_counts(layout):
    """Counts token by token over the sequences, and turn by turn over the dialogues."""
    tokens, trained, untrained = role_turn_sums(), [role_turn_sums() for _ in POINTS], [0] * len(POINTS)
    for place, sequence in enumerate(layout.tokens):
        for role, turn in zip(sequence.roles, sequence.turns, strict=True):
            tokens[role][min(turn, 11)] += 1
        for point, at in enumerate(POINTS):
            weights = slow_weights(layout, place, MASK, at)
            untrained[point] += not any(weights)
            for role, turn, weight in zip(sequence.roles, sequence.turns, weights, strict=True):
                trained[point][role][min(turn, 11)] += weight > 0
    lost_tokens, cut_turns, lost_turns, lost_ends = 0, 0, 0, 0
    for number, talk in enumerate(layout.talks):
        own = [sequence for sequence, of in zip(layout.tokens, layout.dialogues, strict=True) if of == number]
        spoken = [(role, turn) for sequence in own for role, turn in zip(sequence.roles, sequence.turns, strict=True)]
        for turn, (role, length) in enumerate(zip(talk.roles, talk.lengths, strict=True)):
            kept = spoken.count((role, turn))
            lost_tokens += length + 1 - kept
            cut_turns += 0 < kept < length + 1
            lost_turns += kept == 0
        lost_ends += not any(role == Role.END for role, _ in spoken)
    return {
        "sequences": len(layout.tokens),
        "tokens": tokens,
        "trained": trained,
        "untrained": untrained,
        "turns": sum(len(talk.roles) for talk in layout.talks),
        "lost_tokens": lost_tokens,
        "cut_turns": cut_turns,
        "lost_turns": lost_turns,
        "lost_ends": lost_ends,
    }


@settings(deadline=None, max_examples=150)
@given(layouts())
def test_counts_equal_the_slow_reference(layout):
    assert as_lists(counts_of(layout)) == slow_counts(layout)


@settings(deadline=None, max_examples=80)
@given(layouts(min_size=2), st.data())
def test_counts_add_over_any_partition(layout, data):
    count = len(layout.pieces)
    part_of = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    parts = [[place for place in range(count) if part_of[place] == part] for part in sorted(set(part_of))]
    assert as_lists(reduce(add, (counts_of(layout, part) for part in parts))) == as_lists(counts_of(layout))


def test_late_turns_share_the_last_bin():
    talk = Talk(tuple(A if turn % 2 else U for turn in range(15)), (1,) * 15, (1.0,) * 15)
    counts = counts_of(lay_out([talk], "keep_start", 100))
    assert counts.tokens[Role.USER].tolist() == [2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 4]
    assert counts.tokens[Role.ASSISTANT].tolist() == [0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 4]
    assert counts.tokens[Role.FORMAT].tolist() == [1, *[0] * 11]
    assert counts.tokens[Role.END].tolist() == [*[0] * 11, 1]
    assert counts.trained[1].sum() == 14 + 1


@pytest.mark.parametrize(("point", "fraction"), [(0, 7 / 8), (1, 3 / 8), (2, 5 / 8)])
def test_trained_fraction_is_of_all_tokens(point, fraction):
    """`[CLS] u u u [SEP] a [SEP] <end>`: a token counts whatever its weight above 0."""
    counts = counts_of(lay_out([Talk((U, A), (3, 1), (1.0, 1.0))], "split", 100))
    assert compute_trained_fraction(counts, point) == fraction


def test_counts_of_no_sequences_are_0_and_add():
    layout = lay_out([Talk((U, A), (3, 1), (1.0, 1.0))], "split", 100)
    none, all_counts = counts_of(layout, []), counts_of(layout)
    assert compute_trained_fraction(none, 0) == 0
    assert as_lists(none + all_counts) == as_lists(all_counts)
