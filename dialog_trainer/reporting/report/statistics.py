"""Means over seeds with t intervals, paired differences, Holm's correction and equivalence tests.

A score of S runs (one for each seed) on the same N test dialogues has two sources of noise: another seed, and other
dialogues. With the jackknife pseudo-values of each dialogue (of a mean they are its values),

    SE^2 = s^2(scores of the seeds) / S  +  s^2(pseudo-values, averaged over the seeds) / N

and Satterthwaite's degrees of freedom. Noise of a single reply counts in both terms, so that the interval errs on the wide
side. Without the second term the interval is about further seeds on these test dialogues alone.

Sources: Satterthwaite (1946) for the degrees of freedom; Tukey (1958) and Efron (1982) for pseudo-values; Holm (1979);
Schuirmann (1987) for two one-sided tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from dialog_trainer.errors import ConfigError
from dialog_trainer.metrics.bootstrap import Value

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
# Of more dialogues, equal groups are left out in turn (delete-a-group jackknife), which bounds the time.
MAX_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """The ends of a 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `seeds` runs, or over as many paired differences.

    `interval` covers both sources of noise where the dialogues are known, else that of the seeds; `seed_interval` is
    about these test dialogues alone. Both are None with one seed, `p_value` (two-sided, of 0) too where nothing varies.
    """

    mean: float
    seeds: int
    standard_error: float | None
    degrees: float
    interval: Interval | None
    seed_interval: Interval | None
    p_value: float | None

    def equivalence_p_value(self, margin: float) -> float | None:
        """Two one-sided tests: the larger p value of "at most -margin" and "at least margin". None as `p_value`."""
        if not self.standard_error:
            return None
        return _tail((margin - abs(self.mean)) / self.standard_error, self.degrees)


def estimate(values: np.ndarray, dialogues: np.ndarray | None = None) -> Estimate:
    """The mean of `values` `(S,)`, one for each seed; `dialogues` `(N,)` are pseudo-values averaged over the seeds.

    Raises `ConfigError` where scipy is missing, `ValueError` without a value.
    """
    seeds = len(values)
    if not seeds:
        raise ValueError("an estimate needs at least one value")
    mean = float(values.mean())
    if seeds < 2:
        return Estimate(mean, seeds, None, math.nan, None, None, None)
    of_seeds = float(values.var(ddof=1)) / seeds
    terms = [(of_seeds, seeds - 1)]
    if dialogues is not None and len(dialogues) > 1:
        terms.append((float(dialogues.var(ddof=1)) / len(dialogues), len(dialogues) - 1))
    error = math.sqrt(sum(term for term, _ in terms))
    degrees = _satterthwaite(terms)
    # Rounding leaves a last bit of variance in equal values.
    varies = error > 1e-12 * max(1e-300, float(np.abs(values).max()))
    p_value = 2 * _tail(abs(mean) / error, degrees) if varies else None
    seed_interval = _interval(mean, math.sqrt(of_seeds), seeds - 1)
    return Estimate(
        mean, seeds, error if varies else None, degrees, _interval(mean, error, degrees), seed_interval, p_value
    )


def pseudo_values(statistics: np.ndarray, value: Value) -> np.ndarray:
    """Jackknife pseudo-values `(G,)` of a score over `statistics` `(D, K)`, sums by dialogue.

    G is D, or `MAX_GROUPS` groups of consecutive dialogues. `G * score - (G - 1) * score without the group`; of a mean
    over dialogues the values themselves.
    """
    count = min(len(statistics), MAX_GROUPS)
    rows = np.add.reduceat(statistics, np.arange(count) * len(statistics) // count, axis=0)
    total = rows.sum(0)
    without = np.array([value(total - row) for row in rows])
    return count * value(total) - (count - 1) * without


def adjust_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p values of one family of tests; a test without a p value is none of them."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


def judge(difference: Estimate, adjusted_p: float | None, margin: float | None) -> str:
    """The verdict on a difference: "lower", "higher", "equivalent" (within `margin`) or "undecided"."""
    if adjusted_p is not None and adjusted_p < ALPHA:
        return "lower" if difference.mean < 0 else "higher"
    p_value = difference.equivalence_p_value(margin) if margin else None
    return "equivalent" if p_value is not None and p_value < ALPHA else "undecided"


def _satterthwaite(terms: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of variances, each `(variance, degrees of freedom)`; those of the first if all are 0."""
    total = sum(term for term, _ in terms)
    if not total:
        return float(terms[0][1])
    return 1 / sum((term / total) ** 2 / degrees for term, degrees in terms)


def _interval(mean: float, error: float, degrees: float) -> Interval:
    half = _quantile(1 - ALPHA / 2, degrees) * error
    return Interval(mean - half, mean + half)


def _tail(t: float, degrees: float) -> float:
    """The probability of a value above `t` under Student's t distribution."""
    return float(_special().stdtr(degrees, -t))


def _quantile(probability: float, degrees: float) -> float:
    return float(_special().stdtrit(degrees, probability))


def _special() -> ModuleType:
    try:
        from scipy import special
    except ImportError:
        raise ConfigError(["mode=report: needs scipy: pip install scipy"]) from None
    found: ModuleType = special
    return found
