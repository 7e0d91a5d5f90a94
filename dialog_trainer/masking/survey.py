"""A mask over a whole data set: counts, and sums by dialogue, from which one finds the dialogues worth a look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from dialog_trainer.masking.mask import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.statistics import MaskCounts, counted
from dialog_trainer.records import Runs


@dataclass(frozen=True, slots=True)
class Survey:
    """`counts` over all sequences at P points; by dialogue `(D,)` the tokens before truncation, `[CLS]` apart, and those
    that were `lost`; `trained` `(P, D)` the tokens with a weight above 0 at each point."""

    counts: MaskCounts
    tokens: np.ndarray
    lost: np.ndarray
    trained: np.ndarray


def survey(
    chunks: Iterable[tuple[int, np.ndarray, Runs]],
    mask: Mask,
    points: tuple[RoleWeights, ...],
    kept: np.ndarray,
    num_dialogues: int,
) -> Survey:
    """Goes once over `chunks` `(first index, ids, runs)` of all sequences; those not `kept` `(S,)` train nothing."""
    tokens, lost = np.zeros(num_dialogues, dtype=np.int64), np.zeros(num_dialogues, dtype=np.int64)
    trained = np.zeros((len(points), num_dialogues), dtype=np.int64)
    counts = []
    for first, _, spans in chunks:
        trains = np.repeat(kept[first : first + len(spans.counts)], spans.counts)
        weights = [mask.span_weights(spans, at) * trains for at in points]
        counts.append(counted(spans, weights))
        dialogues = np.repeat(spans.dialogues, spans.counts)
        in_sequence = np.ones(len(dialogues), dtype=bool)
        in_sequence[np.cumsum(spans.counts) - spans.counts] = False  # [CLS]
        np.add.at(tokens, dialogues, (spans.lengths + spans.lost) * in_sequence)
        np.add.at(lost, dialogues, spans.lost)
        for total, w in zip(trained, weights, strict=True):
            np.add.at(total, dialogues, np.where(w > 0, spans.lengths, 0))
    return Survey(reduce(add, counts), tokens, lost, trained)
