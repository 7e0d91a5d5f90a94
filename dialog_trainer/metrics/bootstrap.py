"""Bootstrap confidence intervals and paired tests over dialogues (Efron 1979; for paired tests Koehn 2004).

Dialogues are resampled with replacement, not replies: the replies of one dialogue resemble each other. A resample is a
count for each dialogue, and its score is that of the weighted sums of statistics: no text is scored again. One seed
gives the same resamples for every score and for both sides of a paired test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
# Below it, a bootstrap over dialogues gives rough intervals and p values.
MIN_DIALOGUES = 20
_PERCENTILES = (2.5, 97.5)  # the ends of a 95 % interval
# Resampling draws at most so many counts at a time, which bounds memory: 32 MB.
_MAX_COUNTS = 1 << 22

Value = Callable[[np.ndarray], float]


def describe_few(*counts: int) -> str:
    """A warning of scores from so few dialogues; empty where they are enough, or none."""
    few = dict.fromkeys(f"{count:,}" for count in counts if 0 < count < MIN_DIALOGUES)
    if not few:
        return ""
    return f"scores from {' and '.join(few)} dialogues; intervals and p values are rough below about {MIN_DIALOGUES}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A score of `a` minus that of `b`, its 95 % confidence interval, and the p value of `paired_difference`."""

    difference: float
    low: float
    high: float
    p_value: float


def sum_by_dialogue(dialogue_ids: Sequence[str], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The D different ids in order of appearance, and the sums `(D, K)` of the `rows` `(n, K)` of each."""
    indices: dict[str, int] = {}
    row_indices = [indices.setdefault(identifier, len(indices)) for identifier in dialogue_ids]
    sums = np.zeros((len(indices), rows.shape[1]))
    np.add.at(sums, row_indices, rows)
    return list(indices), sums


def confidence_interval(
    statistics: np.ndarray, value: Value, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """The 2.5th and 97.5th percentiles of `value` over resamples of the D dialogues of `statistics` `(D, K)`.

    None with fewer than 2 dialogues.
    """
    if len(statistics) < 2:
        return None
    low, high = np.percentile(_values(resample(statistics, seed, resamples), value), _PERCENTILES)
    return float(low), float(high)


def paired_difference(
    a: np.ndarray, b: np.ndarray, value: Value, seed: int, resamples: int = RESAMPLES
) -> Difference | None:
    """Paired bootstrap test of `value` of `a` minus `value` of `b`, both `(D, K)` over the same D dialogues in order.

    Each resample takes the same dialogues on both sides. The two-sided p value inverts the interval. Let m be the number
    of resampled differences that are at most 0, or that are at least 0, whichever is smaller: p = 2 (m + 1) /
    (resamples + 1), at most 1. Where p is below 0.05, the interval does not contain 0.

    None with fewer than 2 dialogues. Raises `ValueError` if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"statistics of {a.shape} and {b.shape} are not of the same dialogues and score")
    if len(a) < 2:
        return None
    sums = resample(np.hstack([a, b]), seed, resamples)
    differences = _values(sums[:, : a.shape[1]], value) - _values(sums[:, a.shape[1] :], value)
    low, high = np.percentile(differences, _PERCENTILES)
    smaller_side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return Difference(
        value(a.sum(0)) - value(b.sum(0)), float(low), float(high), min(1.0, 2 * (smaller_side + 1) / (resamples + 1))
    )


def resample(statistics: np.ndarray, seed: int, resamples: int, max_counts: int = _MAX_COUNTS) -> np.ndarray:
    """Sums `(resamples, K)` of `statistics` `(D, K)` over D dialogues drawn with replacement.

    `max_counts` bounds the number of counts that are drawn at a time; it does not change the result.
    """
    dialogues = len(statistics)
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, max_counts // dialogues)
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    equal = np.full(dialogues, 1 / dialogues)
    return np.concatenate(
        [generator.multinomial(dialogues, equal, size).astype(np.float64) @ statistics for size in sizes]
    )


def _values(sums: np.ndarray, value: Value) -> np.ndarray:
    return np.array([value(row) for row in sums])
