"""Bootstrap over dialogues: against single resamples, and how often the interval contains the true value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.metrics.bootstrap import confidence_interval, paired_difference, resample, sum_by_dialogue


def mean(sums: np.ndarray) -> float:
    return sums[0] / sums[1]


def dialogues(values) -> np.ndarray:
    """`(D, 2)`: each value, and 1."""
    return np.stack([values, np.ones(len(values))], axis=1)


def test_sums_by_dialogue():
    ids, sums = sum_by_dialogue(["b", "a", "b", "c"], np.array([[1.0, 10], [2, 20], [4, 40], [8, 80]]))
    assert ids == ["b", "a", "c"]
    assert sums.tolist() == [[5, 50], [2, 20], [8, 80]]
    ids, sums = sum_by_dialogue([], np.zeros((0, 3)))
    assert (ids, sums.shape) == ([], (0, 3))


def slow_values(statistics, value, seed: int, resamples: int) -> list[float]:
    """Adds each dialogue as often as it was drawn."""
    draw, count = np.random.Generator(np.random.PCG64(seed)), len(statistics)
    found = []
    for _ in range(resamples):
        times = draw.multinomial(count, [1 / count] * count)
        found.append(value(sum(row for row, often in zip(statistics, times, strict=True) for _ in range(often))))
    return found


def test_interval_is_the_percentiles_of_single_resamples():
    statistics = np.random.default_rng(5).gamma(2.0, size=(7, 2))
    found = slow_values(statistics, mean, seed=3, resamples=200)
    assert confidence_interval(statistics, mean, seed=3, resamples=200) == pytest.approx(
        np.percentile(found, [2.5, 97.5])
    )
    assert confidence_interval(statistics, mean, seed=4, resamples=200) != pytest.approx(
        np.percentile(found, [2.5, 97.5])
    )


@pytest.mark.parametrize("max_counts", [1, 40, 7 * 200])
def test_number_of_counts_drawn_at_a_time_changes_nothing(max_counts):
    statistics = np.random.default_rng(5).gamma(2.0, size=(7, 2))
    expected = resample(statistics, seed=3, resamples=200)
    assert resample(statistics, 3, 200, max_counts) == pytest.approx(expected)


def test_default_is_1000_resamples():
    statistics = dialogues(np.arange(9.0))
    assert confidence_interval(statistics, mean, 0) == confidence_interval(statistics, mean, 0, resamples=1000)
    assert paired_difference(statistics, statistics[::-1], mean, 0) == paired_difference(
        statistics, statistics[::-1], mean, 0, resamples=1000
    )


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_2_dialogues_have_no_interval_and_no_test(count):
    statistics = np.ones((count, 2))
    assert confidence_interval(statistics, mean, seed=0) is None
    assert paired_difference(statistics, statistics, mean, seed=0) is None


def test_equal_dialogues_have_an_interval_of_width_0():
    assert confidence_interval(dialogues([3.0, 3.0]), mean, seed=0) == (3.0, 3.0)


@pytest.mark.slow
def test_interval_covers_the_true_value_95_times_in_100():
    """Dialogues of 1 to 9 equal replies: resampling replies instead would cover it far less often."""
    draw, hits = np.random.default_rng(11), 0
    for trial in range(500):
        replies = draw.integers(1, 10, size=80)
        level = draw.normal(2.0, 1.0, size=80)
        low, high = confidence_interval(np.stack([replies * level, replies], axis=1), mean, seed=trial, resamples=250)
        hits += low <= 2.0 <= high
    assert 0.925 <= hits / 500 <= 0.97


def test_paired_difference_uses_the_same_resamples_on_both_sides():
    draw = np.random.default_rng(2)
    a, b = draw.gamma(2.0, size=(2, 12, 2))
    found = [x - y for x, y in zip(slow_values(a, mean, 9, 400), slow_values(b, mean, 9, 400), strict=True)]
    result = paired_difference(a, b, mean, seed=9, resamples=400)
    assert result.difference == pytest.approx(mean(a.sum(0)) - mean(b.sum(0)))
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(found, [2.5, 97.5])))
    far = min(sum(d <= 0 for d in found), sum(d >= 0 for d in found))
    assert result.p_value == pytest.approx(2 * (far + 1) / 401)
    assert 0.01 < result.p_value < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-1.5, 1.5), st.integers(2, 20))
def test_paired_difference_is_antisymmetric_and_p_agrees_with_the_interval(seed, shift, count):
    draw = np.random.default_rng(seed)
    a, b = dialogues(draw.normal(shift, 1.0, count)), dialogues(draw.normal(0.0, 1.0, count))
    one, other = (paired_difference(*sides, mean, seed, resamples=200) for sides in ((a, b), (b, a)))
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low), abs=1e-12)
    assert one.p_value == other.p_value
    assert 2 / 201 <= one.p_value <= 1
    assert one.p_value >= 0.05 or one.low > 0 or one.high < 0


def test_p_is_1_without_a_difference():
    a = dialogues(np.arange(5.0))
    result = paired_difference(a, a, mean, seed=0)
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.slow
def test_p_is_uniform_without_a_true_difference_and_small_with_one():
    draw, found = np.random.default_rng(3), []
    for trial in range(400):
        level = draw.normal(0.0, 5.0, 60)  # the same on both sides, so a paired test ignores it
        a, b = (dialogues(level + draw.normal(0.0, 1.0, 60)) for _ in range(2))
        found.append(paired_difference(a, b, mean, seed=trial, resamples=200).p_value)
    # The largest distance to the uniform distribution; 1.36 / sqrt(400) is its 95th percentile.
    found = np.sort(found)
    assert max(abs(found - np.arange(1, 401) / 400)) < 0.068
    clear = paired_difference(dialogues(level + draw.normal(1.0, 1.0, 60)), dialogues(level), mean, seed=0)
    assert clear.p_value == pytest.approx(2 / 1001)
    assert clear.low > 0


def test_unequal_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2, 2\)"):
        paired_difference(np.ones((3, 2)), np.ones((2, 2)), mean, seed=0)
