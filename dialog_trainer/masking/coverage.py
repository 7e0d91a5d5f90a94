"""Coverage of a mask: how many tokens it trains, by role and by turn, and what truncation removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.types import NUM_TURN_BINS, Role, TurnSpans


@dataclass(frozen=True, slots=True)
class MaskCounts:
    """Counts over sequences at P points of training. Counts of parts of the data add.

    `tokens` `(5, NUM_TURN_BINS)` by role and turn index (the last bin: all later turns); `trained` `(P, 5,
    NUM_TURN_BINS)` those with a weight above 0; `untrained` `(P,)` the sequences without such a token. `turns` is the
    number of turns. Of truncation: `lost_tokens` of turns, `cut_turns` that lost some tokens, `lost_turns` that lost all,
    and `lost_ends`, the end-of-text tokens.
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

    @property
    def turn_tokens(self) -> int:
        """Tokens of turns before truncation, without those of the format and the ends."""
        return int(self.tokens.sum() - self.tokens[[Role.END, Role.FORMAT]].sum()) + self.lost_tokens

    def __add__(self, other: MaskCounts) -> MaskCounts:
        return MaskCounts(*(getattr(self, name) + getattr(other, name) for name in MaskCounts.__slots__))


def count_coverage(spans: TurnSpans, point_weights: Sequence[np.ndarray]) -> MaskCounts:
    """The counts of some sequences, with the weights `(R,)` of their spans at each point."""
    cells = spans.roles * NUM_TURN_BINS + np.minimum(spans.turns, NUM_TURN_BINS - 1)

    def sum_by_cell(lengths: np.ndarray) -> np.ndarray:
        counts = np.bincount(cells, weights=lengths, minlength=len(Role) * NUM_TURN_BINS)
        return counts.astype(np.int64).reshape(len(Role), NUM_TURN_BINS)

    trained = [np.where(weights > 0, spans.lengths, 0) for weights in point_weights]
    is_turn = (spans.roles != Role.FORMAT) & (spans.roles != Role.END)
    lost = np.where(is_turn, spans.lost, 0)
    return MaskCounts(
        sequences=len(spans.counts),
        tokens=sum_by_cell(spans.lengths),
        trained=np.array([sum_by_cell(lengths) for lengths in trained]),
        untrained=np.array([np.sum(spans.sum_by_sequence(lengths) == 0) for lengths in trained]),
        turns=int(is_turn.sum()),
        lost_tokens=int(lost.sum()),
        cut_turns=int(((lost > 0) & (spans.lengths > 0)).sum()),
        lost_turns=int((is_turn & (spans.lengths == 0)).sum()),
        lost_ends=int(((spans.roles == Role.END) & (spans.lengths == 0)).sum()),
    )


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What was understood of a split.

    `turns_by_role`: the name of each role or tool, and its number of turns. `counts`: its tokens, and what truncation
    took. `before` and `after` `(5,)` by role: the tokens that carry loss at the start and at the end of training.
    `unknown` tokens that the vocabulary does not have. `unread`: keys of the data that were not read, with how often they
    occur; `by_position`: the dialogues whose roles the data do not name.
    """

    name: str
    turns_by_role: Mapping[str, int]
    counts: MaskCounts
    before: np.ndarray
    after: np.ndarray
    unknown: int
    unread: Mapping[str, int]
    by_position: int


def compute_trained_fraction(counts: MaskCounts, point: int) -> float:
    """Trained tokens over all tokens at a point; 0 without tokens."""
    return float(counts.trained[point].sum() / max(1, counts.tokens.sum()))


@dataclass(frozen=True, slots=True)
class DatasetCoverage:
    """`counts` over all sequences at P points. By dialogue, `(D,)`: its `tokens` before truncation, without those of the format, and
    those `lost` to truncation; `trained` `(P, D)`: its tokens with a weight above 0 at each point."""

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
    """Coverage over `chunks` `(first index, ids, spans)` of all sequences. Sequences not `kept` `(S,)` train nothing."""
    tokens, lost = np.zeros(num_dialogues, dtype=np.int64), np.zeros(num_dialogues, dtype=np.int64)
    trained = np.zeros((len(points), num_dialogues), dtype=np.int64)
    counts = []
    for first, _, spans in chunks:
        is_kept = kept[first : first + len(spans.counts)][spans.sequences]
        point_weights = [mask.weigh_spans(spans, point) * is_kept for point in points]
        counts.append(count_coverage(spans, point_weights))
        dialogues = spans.dialogues[spans.sequences]
        np.add.at(tokens, dialogues, (spans.lengths + spans.lost) * (spans.roles != Role.FORMAT))
        np.add.at(lost, dialogues, spans.lost)
        for sums, weights in zip(trained, point_weights, strict=True):
            np.add.at(sums, dialogues, np.where(weights > 0, spans.lengths, 0))
    return DatasetCoverage(reduce(add, counts), tokens, lost, trained)
