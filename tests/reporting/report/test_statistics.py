"""Statistics over seeds: against scipy, worked examples, and by simulation."""

import sys

import numpy as np
import pytest
from scipy import stats

from dialog_trainer.errors import ConfigError
from dialog_trainer.metrics.ratios import divide
from dialog_trainer.reporting.report import statistics
from dialog_trainer.reporting.report.statistics import adjust_holm, estimate, judge, pseudo_values

DRAWS = 2000


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_t_interval_and_p_value_agree_with_scipy(seeds):
    values = np.random.default_rng(seeds).normal(0.4, 1, seeds)
    found = estimate(values)
    expected = stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert found.interval == found.seed_interval
    assert found.p_value == pytest.approx(expected.pvalue)
    one_sided = [
        stats.ttest_1samp(values, -0.7, alternative="greater").pvalue,
        stats.ttest_1samp(values, 0.7, alternative="less").pvalue,
    ]
    assert found.equivalence_p_value(0.7) == pytest.approx(max(one_sided))


def test_two_sources_add_and_satterthwaite_is_that_of_welch():
    """Welch's test has the same sum of two variances, so that scipy gives its degrees of freedom."""
    draw = np.random.default_rng(0)
    values, dialogues = draw.normal(0, 1, 5), draw.normal(0, 4, 30)
    found = estimate(values, dialogues)
    welch = stats.ttest_ind(values, dialogues, equal_var=False)
    assert found.degrees == pytest.approx(welch.df)
    assert found.standard_error == pytest.approx(np.sqrt(values.var(ddof=1) / 5 + dialogues.var(ddof=1) / 30))
    assert found.seed_interval.high - found.mean < found.interval.high - found.mean


def test_one_seed_has_no_interval_and_equal_values_no_p_value():
    alone = estimate(np.array([3.0]), np.arange(9.0))
    assert (alone.mean, alone.interval, alone.seed_interval, alone.p_value) == (3.0, None, None, None)
    equal = estimate(np.array([0.1, 0.1, 0.1]))
    assert (equal.p_value, equal.equivalence_p_value(1.0), equal.interval.low) == (None, None, pytest.approx(0.1))
    assert judge(equal, None, 1.0) == "undecided"
    with pytest.raises(ValueError, match="at least one"):
        estimate(np.array([]))


def test_pseudo_values_of_a_mean_are_the_values(monkeypatch):
    values = np.arange(12.0)
    rows = np.stack([values, np.ones(12)], axis=1)
    assert pseudo_values(rows, divide) == pytest.approx(values)
    monkeypatch.setattr(statistics, "MAX_GROUPS", 4)
    assert pseudo_values(rows, divide) == pytest.approx([1, 4, 7, 10])  # means of groups of three


def test_pseudo_values_of_a_ratio_give_its_standard_error():
    """Against the bootstrap of the ratio."""
    draw = np.random.default_rng(1)
    tokens = draw.integers(5, 50, 400)
    rows = np.stack([draw.normal(3, 1, 400) * tokens, tokens], axis=1)
    error = np.sqrt(pseudo_values(rows, divide).var(ddof=1) / 400)
    resampled = [divide(rows[draw.integers(0, 400, 400)].sum(0)) for _ in range(DRAWS)]
    assert error == pytest.approx(np.std(resampled), rel=0.06)


def test_holm():
    """Worked by hand: 3 * .01, then 2 * .02 (not below .03), then .04 raised to the one before."""
    assert adjust_holm([0.02, None, 0.01, 0.04]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []


@pytest.mark.parametrize(
    ("values", "margin", "verdict"),
    [
        ([-1.0, -1.1, -0.9], None, "lower"),
        ([1.0, 1.1, 0.9], 0.01, "higher"),
        ([0.01, -0.02, 0.012], 0.1, "equivalent"),
        ([0.01, -0.02, 0.012], None, "undecided"),
        ([1.0, -2.0, 1.2], 0.1, "undecided"),
        ([0.6, -0.3, 0.4], 0.1, "undecided"),  # beyond the margin
    ],
)
def test_verdicts(values, margin, verdict):
    found = estimate(np.array(values))
    assert judge(found, found.p_value, margin) == verdict


def coverage(intervals, truth):
    return np.mean([one.low <= truth <= one.high for one in intervals])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 12])
def test_intervals_cover_95_percent(seeds):
    """Runs on 60 dialogues; of half of the draws the dialogues are fixed, so that only seeds are drawn."""
    draw = np.random.default_rng(seeds)
    of_seeds, of_both = [], []
    for _ in range(DRAWS):
        seed_effects = draw.normal(0, 1, seeds)
        of_seeds.append(estimate(2 + seed_effects).interval)
        dialogues = draw.normal(0, 8, 60)
        of_both.append(estimate(2 + seed_effects + dialogues.mean(), 2 + seed_effects.mean() + dialogues).interval)
    assert coverage(of_seeds, 2) == pytest.approx(0.95, abs=0.015)
    assert coverage(of_both, 2) == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
def test_false_alarms_after_holm_are_at_most_5_percent():
    """Four arms equal to the baseline, five seeds: in how many of the draws is any of them called different?"""
    draw = np.random.default_rng(7)
    alarms = 0
    for _ in range(DRAWS):
        scores = draw.normal(0, 1, (5, 5)) + draw.normal(0, 3, 5)  # arm by seed; the seed moves all arms alike
        p_values = [estimate(arm - scores[0]).p_value for arm in scores[1:]]
        alarms += min(adjust_holm(p_values)) < 0.05
    assert alarms / DRAWS <= 0.065


def test_without_scipy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match="pip install scipy"):
        estimate(np.array([1.0, 2.0]))


def test_the_largest_values_that_a_row_may_hold_overflow_nothing():
    found = estimate(np.array([1e99, -1e99, 3.0]), np.array([1e99, -1e99]))
    assert found.interval is not None
    assert np.isfinite([found.degrees, found.interval.low, found.interval.high]).all()
