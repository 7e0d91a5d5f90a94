"""What mode=validate says of replies beyond their scores: intervals, the clean part, depths, baselines, comparisons.

Everything is made of the same statistics, summed by dialogue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dialog_trainer.metrics.bootstrap import confidence_interval, paired_difference, sum_by_dialogue
from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.metrics.registry import SCORES, compute_statistics, score_parts
from dialog_trainer.types import Reply

SEED = 0
LARGEST = 1e100
# Bins of depths, and the last depth of each but the open one.
DEPTHS = ("1", "2", "3", "4", "5-6", "7-10", ">10")
_LAST_DEPTHS = (1, 2, 3, 4, 6, 10)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The sums of each score that has some: `rows[name]` `(D, K)`, a row for each of the dialogues `ids[name]`.

    Perplexities are over every dialogue of the split, the other scores over those that were replied to.
    """

    ids: dict[str, list[str]]
    rows: dict[str, np.ndarray]

    def only(self, wanted: Collection[str]) -> Statistics:
        """Of the dialogues `wanted` alone."""
        places = {name: [i for i, one in enumerate(ids) if one in wanted] for name, ids in self.ids.items()}
        return Statistics(
            {name: [self.ids[name][i] for i in kept] for name, kept in places.items()},
            {name: self.rows[name][kept] for name, kept in places.items()},
        )


def collect_statistics(
    names: Sequence[str], replies: Sequence[Reply], all_ids: Sequence[str], loss_sums: np.ndarray
) -> Statistics:
    """`loss_sums` `(D, 4)` are those of `Validation`, of the dialogues `all_ids`."""
    ids, rows = {}, {}
    for name, of_replies in compute_statistics(names, replies).items():
        ids[name], rows[name] = sum_by_dialogue([reply.dialogue_id for reply in replies], of_replies)
    for name in names:
        if name in PERPLEXITIES:
            ids[name], rows[name] = list(all_ids), loss_sums
    return Statistics(ids, rows)


def add_intervals(scores: Mapping[str, float], of: Statistics) -> dict[str, dict[str, float | None]]:
    """Each score with the ends of its 95 % interval; None where it has none."""
    found = {}
    for name, value in scores.items():
        ends = confidence_interval(of.rows[name], score_function(name), SEED) if name in of.rows else None
        low, high = map(_finite, ends or (None, None))
        found[name] = {"value": _finite(value), "low": low, "high": high}
    return found


def _finite(value: float | None) -> float | None:
    """None for the perplexity of nothing, or beyond all bounds."""
    return None if value is None or value > LARGEST else value


def score_subset(names: Sequence[str], replies: Sequence[Reply], of: Statistics, wanted: Collection[str]) -> dict:
    """Scores with intervals of the dialogues `wanted` alone, and how many these are. The information of NIST's n-grams
    stays that of all replies."""
    own, kept = of.only(wanted), [reply for reply in replies if reply.dialogue_id in wanted]
    scores = {
        name: score_function(name)(own.rows[name].sum(0)) if name in own.rows else SCORES[name].score_corpus(kept)
        for name in names
    }
    dialogues = len({reply.dialogue_id for reply in kept})
    return {"dialogues": dialogues, "replies": len(kept), "scores": add_intervals(scores, own)}


def score_by_depth(names: Sequence[str], replies: Sequence[Reply]) -> list[dict]:
    """Scores by the depth of the turn, the number of turns before it, with the number of replies; no bin without one.

    Where one role alone replies, only its depths are there: an assistant that speaks second has 1, 3, 5-6, 7-10, >10.
    """
    bins = np.searchsorted(_LAST_DEPTHS, [reply.turn_index for reply in replies])
    parts = {DEPTHS[place]: np.flatnonzero(bins == place) for place in np.unique(bins)}
    scores = score_parts(names, replies, parts)
    return [{"depth": depth, "replies": len(indices), "scores": scores[depth]} for depth, indices in parts.items()]


def compare_scores(names: Sequence[str], ours: Statistics, others: Statistics) -> dict[str, dict[str, float]]:
    """What we have more than the others, of each score that both have over the same dialogues."""
    found = {}
    for name in names:
        if name not in ours.rows or ours.ids[name] != others.ids.get(name):
            continue
        difference = paired_difference(ours.rows[name], others.rows[name], score_function(name), SEED)
        if difference is not None:
            found[name] = asdict(difference)
    return found


def score_function(name: str):
    return PERPLEXITIES[name] if name in PERPLEXITIES else SCORES[name].value
