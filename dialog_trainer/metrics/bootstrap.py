"""How far a score may be from that of other dialogues of the same kind: bootstrap over dialogues (Efron 1979).

Dialogues are resampled, not replies: the replies of one dialogue resemble each other. A resample is a weight for each
dialogue, its score that of the weighted sums; nothing is scored again. All from a seed: the same draws for every score
and both sides of a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
# What lies between them is the interval.
_PERCENTILES = (2.5, 97.5)
# So many weights are drawn at a time, which bounds memory.
_WEIGHTS_AT_ONCE = 1 << 22

Value = Callable[[np.ndarray], float]


@dataclass(frozen=True, slots=True)
class Difference:
    """What the first has more than the second, its 95 % interval, and the p value (`paired`)."""

    difference: float
    low: float
    high: float
    p_value: float


def sum_by_dialogue(dialogue_ids: Sequence[str], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The D different ids in the order in which they come, and their sums of `rows` `(n, K)`: `(D, K)`."""
    places: dict[str, int] = {}
    of_row = [places.setdefault(identifier, len(places)) for identifier in dialogue_ids]
    sums = np.zeros((len(places), rows.shape[1]))
    np.add.at(sums, of_row, rows)
    return list(places), sums


def confidence_interval(
    statistics: np.ndarray, value: Value, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """The 2.5th and the 97.5th percentile of `value` over resamples of the dialogues; `statistics` is `(D, K)`.

    None of fewer than 2 dialogues: one says nothing about others.
    """
    if len(statistics) < 2:
        return None
    low, high = np.percentile(_values(_resampled(statistics, seed, resamples), value), _PERCENTILES)
    return float(low), float(high)


def paired_difference(
    a: np.ndarray, b: np.ndarray, value: Value, seed: int, resamples: int = RESAMPLES
) -> Difference | None:
    """`value` of `a` minus that of `b`, both `(D, K)` over the same D dialogues in the same order.

    In each resample both have the same dialogues. The p value, two-sided, is the interval turned round: twice the share
    of resamples on the far side of 0 (the smaller of those at most 0 and those at least 0, plus 1, over all plus 1), at
    most 1; below 0.05 the interval leaves out 0. Never below 2 / (resamples + 1). None of fewer than 2 dialogues.
    Raises `ValueError` where the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"statistics of {a.shape} and {b.shape} are not of the same dialogues and score")
    if len(a) < 2:
        return None
    sums = _resampled(np.hstack([a, b]), seed, resamples)
    differences = _values(sums[:, : a.shape[1]], value) - _values(sums[:, a.shape[1] :], value)
    low, high = np.percentile(differences, _PERCENTILES)
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return Difference(
        value(a.sum(0)) - value(b.sum(0)), float(low), float(high), min(1.0, 2 * (beyond + 1) / (resamples + 1))
    )


def _resampled(statistics: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """`(resamples, K)`: sums over D dialogues that were drawn with replacement."""
    count = len(statistics)
    draw = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, _WEIGHTS_AT_ONCE // count)
    parts = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    return np.concatenate(
        [draw.multinomial(count, np.full(count, 1 / count), size).astype(np.float64) @ statistics for size in parts]
    )


def _values(sums: np.ndarray, value: Value) -> np.ndarray:
    return np.array([value(row) for row in sums])
