"""Confidence intervals, scores of uncontaminated dialogues, scores by depth, and paired comparisons with other scores.

All of them use the same statistics of the replies, summed by dialogue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dialog_trainer.evaluation.progress import SILENT, Progress
from dialog_trainer.metrics.bootstrap import confidence_interval, paired_difference, sum_by_dialogue
from dialog_trainer.metrics.ratios import count_words_and_references
from dialog_trainer.metrics.registry import Metrics, compute_statistics, score_parts
from dialog_trainer.types import Reply

BOOTSTRAP_SEED = 0
# A perplexity above it is not a number to report: nothing was counted, or the loss is beyond all bounds.
LARGEST_SCORE = 1e100
# Bins of depths, and the last depth of each bin but the open one.
DEPTHS = ("1", "2", "3", "4", "5-6", "7-10", ">10")
_LAST_DEPTHS = (1, 2, 3, 4, 6, 10)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sums by dialogue of each score that is a function of sums: `rows[name]` `(D, K)`, one row for each of `ids[name]`.

    Perplexities cover every dialogue of the split, the other scores those that were replied to.
    """

    ids: dict[str, list[str]]
    rows: dict[str, np.ndarray]

    def select(self, wanted: Collection[str]) -> Statistics:
        """The rows of the dialogues `wanted`."""
        places = {name: [i for i, one in enumerate(ids) if one in wanted] for name, ids in self.ids.items()}
        return Statistics(
            {name: [self.ids[name][i] for i in kept] for name, kept in places.items()},
            {name: self.rows[name][kept] for name, kept in places.items()},
        )


def collect_statistics(
    metrics: Metrics, replies: Sequence[Reply], all_ids: Sequence[str], loss_sums: np.ndarray
) -> Statistics:
    """Those of `metrics` that are functions of sums; `loss_sums` `(D, 4)` of `ValidationResult`, of dialogues `all_ids`."""
    ids, rows = {}, {}
    for name, reply_rows in compute_statistics(metrics, replies, metrics).items():
        ids[name], rows[name] = sum_by_dialogue([reply.dialogue_id for reply in replies], reply_rows)
    for name, metric in metrics.items():
        if metric.from_loss:
            ids[name], rows[name] = list(all_ids), loss_sums
    return Statistics(ids, rows)


def analyze_scores(
    metrics: Metrics,
    scores: Mapping[str, float | None],
    replies: Sequence[Reply],
    statistics: Statistics,
    baselines: Mapping[str, Sequence[Reply]],
    clean_ids: Collection[str] | None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """The entries `scores`, `baselines`, `clean` and `by_depth` of scores.json, for replies in place of turns.

    `clean_ids` are the dialogues that are not also in the training split (None: all).
    """
    progress.start("bootstrap of scores", len(scores))
    intervals = add_intervals(metrics, scores, statistics, progress)
    clean = None
    if clean_ids is not None:
        progress.start("bootstrap of scores without contamination", len(scores))
        clean = score_subset(metrics, replies, statistics, clean_ids, progress)
        clean["baselines"] = {}
    all_scores = {}
    for name, its_replies in baselines.items():
        kept = [index for index, reply in enumerate(its_replies) if reply.dialogue_id in (clean_ids or ())]
        parts = score_parts(metrics, its_replies, {"all": range(len(its_replies)), "clean": kept}, metrics)
        all_scores[name] = parts["all"]
        if clean is not None:
            clean["baselines"][name] = {key: value if kept else None for key, value in parts["clean"].items()}
    depths = score_by_depth(metrics, replies)
    return {"scores": intervals, "baselines": all_scores, "clean": clean, "by_depth": depths}


def add_intervals(
    metrics: Metrics, scores: Mapping[str, float | None], statistics: Statistics, progress: Progress = SILENT
) -> dict[str, dict[str, float | None]]:
    """`value`, `low` and `high` of each score, the 95 % bootstrap interval over dialogues; None where there is none.

    `progress` counts scores.
    """
    intervals = {}
    for name, score in scores.items():
        ends, function = None, metrics[name].value
        if function is not None and name in statistics.rows and score is not None:
            ends = confidence_interval(statistics.rows[name], function, BOOTSTRAP_SEED)
        low, high = map(_reportable, ends or (None, None))
        intervals[name] = {"value": _reportable(score), "low": low, "high": high}
        progress.advance(1)
    return intervals


def _reportable(score: float | None) -> float | None:
    return None if score is None or score > LARGEST_SCORE else score


def mean_words(replies: Sequence[Reply], tokenizer: str) -> dict[str, Any]:
    """The entry `words` of scores.json: the tokenizer of words, and words by it of a reply and of a reference on average."""
    per_reply, per_reference = count_words_and_references(replies, tokenizer).sum(0).tolist()
    count = max(1, len(replies))
    return {"tokenizer": tokenizer, "per_reply": per_reply / count, "per_reference": per_reference / count}


def score_subset(
    metrics: Metrics,
    replies: Sequence[Reply],
    statistics: Statistics,
    wanted: Collection[str],
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Scores with intervals of the dialogues `wanted`, and the numbers of dialogues and replies.

    Without a reply a score of replies is None. NIST's n-gram information is that of all replies.
    """
    subset, kept = statistics.select(wanted), [reply for reply in replies if reply.dialogue_id in wanted]
    scores: dict[str, float | None] = {}
    for name, metric in metrics.items():
        scores[name] = None
        if metric.value is not None and (kept or metric.from_loss):
            scores[name] = metric.value(subset.rows[name].sum(0))
        elif metric.score_corpus is not None and kept:
            scores[name] = metric.score_corpus(kept)
    dialogues = len({reply.dialogue_id for reply in kept})
    return {
        "dialogues": dialogues,
        "replies": len(kept),
        "scores": add_intervals(metrics, scores, subset, progress),
    }


def score_by_depth(metrics: Metrics, replies: Sequence[Reply]) -> list[dict[str, Any]]:
    """Scores and number of replies by depth, the number of turns before the reply; bins without a reply are left out.

    If only one role replies, only its depths occur: an assistant that speaks second has 1, 3, 5-6, 7-10 and >10.
    """
    bins = np.searchsorted(_LAST_DEPTHS, [reply.turn_index for reply in replies])
    parts: dict[str, list[int]] = {DEPTHS[place]: np.flatnonzero(bins == place).tolist() for place in np.unique(bins)}
    scores = score_parts(metrics, replies, parts, metrics)
    return [{"depth": depth, "replies": len(indices), "scores": scores[depth]} for depth, indices in parts.items()]


def compare_scores(
    metrics: Metrics, ours: Statistics, theirs: Statistics, progress: Progress = SILENT
) -> dict[str, dict[str, float]]:
    """Paired difference (ours minus theirs) of each score that both have over the same dialogues, two or more.

    `progress` counts scores.
    """
    differences = {}
    for name, metric in metrics.items():
        if metric.value is not None and name in ours.rows and ours.ids[name] == theirs.ids.get(name):
            difference = paired_difference(ours.rows[name], theirs.rows[name], metric.value, BOOTSTRAP_SEED)
            if difference is not None:
                differences[name] = asdict(difference)
        progress.advance(1)
    return differences
