"""How much of a data set a mask trains, by role and by turn, and what truncation took from it. Counts that add."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.types import NUM_TURN_BINS, Role, TurnSpans


@dataclass(frozen=True, slots=True)
class MaskCounts:
    """Counts over sequences, at P points of the training.

    `tokens` `(5, NUM_DEPTHS)` by role and turn index (the last place: all later turns); `trained` `(P, 5, NUM_DEPTHS)`
    those with a weight above 0, `untrained` `(P,)` the sequences without one. Of truncation: `lost_tokens`, the
    `cut_turns` that lost some of theirs and the `lost_turns` that lost all, each end-of-text token apart in `lost_ends`.
    """

    sequences: int
    tokens: np.ndarray
    trained: np.ndarray
    untrained: np.ndarray
    turns: int
    lost_tokens: int
    cut_turns: int
    lost_turns: int
    lost_ends: int

    def __add__(self, other: MaskCounts) -> MaskCounts:
        return MaskCounts(*(getattr(self, name) + getattr(other, name) for name in MaskCounts.__slots__))


def count_coverage(spans: TurnSpans, weights_at_points: Sequence[np.ndarray]) -> MaskCounts:
    """The counts of some sequences, given the weights `(R,)` of their runs at each point."""
    places = spans.roles * NUM_TURN_BINS + np.minimum(spans.turns, NUM_TURN_BINS - 1)
    first_spans = np.cumsum(spans.counts) - spans.counts

    def by_place(lengths: np.ndarray) -> np.ndarray:
        counts = np.bincount(places, weights=lengths, minlength=len(Role) * NUM_TURN_BINS)
        return counts.astype(np.int64).reshape(len(Role), NUM_TURN_BINS)

    trained = [np.where(weights > 0, spans.lengths, 0) for weights in weights_at_points]
    is_turn = (spans.roles != Role.START) & (spans.roles != Role.END)
    lost = np.where(is_turn, spans.lost, 0)
    return MaskCounts(
        sequences=len(spans.counts),
        tokens=by_place(spans.lengths),
        trained=np.array([by_place(lengths) for lengths in trained]),
        untrained=np.array([np.sum(np.add.reduceat(lengths, first_spans) == 0) for lengths in trained]),
        turns=int(is_turn.sum()),
        lost_tokens=int(lost.sum()),
        cut_turns=int(((lost > 0) & (spans.lengths > 0)).sum()),
        lost_turns=int((is_turn & (spans.lengths == 0)).sum()),
        lost_ends=int(((spans.roles == Role.END) & (spans.lengths == 0)).sum()),
    )


def trained_share(counts: MaskCounts, point: int) -> float:
    return float(counts.trained[point].sum() / max(1, counts.tokens.sum()))


@dataclass(frozen=True, slots=True)
class DatasetCoverage:
    """`counts` over all sequences at P points; by dialogue `(D,)` the tokens before truncation, `[CLS]` apart, and those
    that were `lost`; `trained` `(P, D)` the tokens with a weight above 0 at each point."""

    counts: MaskCounts
    tokens: np.ndarray
    lost: np.ndarray
    trained: np.ndarray


def measure_coverage(
    chunks: Iterable[tuple[int, np.ndarray, TurnSpans]],
    mask: Mask,
    points: tuple[RoleWeights, ...],
    kept: np.ndarray,
    num_dialogues: int,
) -> DatasetCoverage:
    """Goes once over `chunks` `(first index, ids, runs)` of all sequences; those not `kept` `(S,)` train nothing."""
    tokens, lost = np.zeros(num_dialogues, dtype=np.int64), np.zeros(num_dialogues, dtype=np.int64)
    trained = np.zeros((len(points), num_dialogues), dtype=np.int64)
    counts = []
    for first, _, spans in chunks:
        trains = np.repeat(kept[first : first + len(spans.counts)], spans.counts)
        weights = [mask.span_weights(spans, at) * trains for at in points]
        counts.append(count_coverage(spans, weights))
        dialogues = np.repeat(spans.dialogues, spans.counts)
        in_sequence = np.ones(len(dialogues), dtype=bool)
        in_sequence[np.cumsum(spans.counts) - spans.counts] = False  # [CLS]
        np.add.at(tokens, dialogues, (spans.lengths + spans.lost) * in_sequence)
        np.add.at(lost, dialogues, spans.lost)
        for total, w in zip(trained, weights, strict=True):
            np.add.at(total, dialogues, np.where(w > 0, spans.lengths, 0))
    return DatasetCoverage(reduce(add, counts), tokens, lost, trained)
