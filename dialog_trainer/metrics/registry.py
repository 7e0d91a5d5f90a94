"""The scores by name. A score is a function of replies and their references.

Nearly every score is the value of sums: `statistics(replies)` has a row for each reply, and `value` of the summed rows of
some replies is their score as one corpus. Rows made once give the score of the whole, of a part (clean dialogues, a depth
of turn) and of each resample for an interval. Of no replies every score is 0; an empty reply is one without words.

To add a score: write its statistics, put it into `SCORES`, and its name into `options.SCORE_NAMES`; where more is not
better, also into `LOWER_IS_BETTER` or `NO_BETTER` there. For example the share of replies that ask something:

>>> import numpy as np
>>> from dialog_trainer.metrics.bootstrap import confidence_interval
>>> from dialog_trainer.metrics.ratios import ratio
>>> from dialog_trainer.metrics.registry import SCORES, Score, score_replies
>>> from dialog_trainer.types import Reply
>>> def asks(replies):
...     return np.array([(reply.text.endswith("?"), 1) for reply in replies], dtype=float).reshape(-1, 2)
>>> SCORES["question_rate"] = Score("question_rate", "question_rate[last character]", asks, ratio)
>>> texts = ["why ?", "no .", "you ?", "yes ?"]
>>> replies = [Reply(str(n), 1, ("hello",), "hi", text, ended=True) for n, text in enumerate(texts)]
>>> score_replies(["question_rate"], replies)
{'question_rate': 0.75}
>>> confidence_interval(asks(replies), ratio, seed=0)
(0.25, 1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dialog_trainer.metrics import bleu, chrf, diversity, nist, ratios
from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.types import Reply


@dataclass(frozen=True, slots=True)
class Score:
    """A score of replies, at least 0.

    `statistics(replies)` `(n, K)` float64 has a row for each reply, and `value` makes the score of a sum of rows `(K,)`;
    scores that share statistics share the function, which is then called once. What is no sum has `whole(replies)`
    instead of both, and no interval.
    """

    name: str
    signature: str
    statistics: Callable[[Sequence[Reply]], np.ndarray] | None = None
    value: Callable[[np.ndarray], float] | None = None
    whole: Callable[[Sequence[Reply]], float] | None = None


_BLEU, _NIST = f"bleu[{bleu.SIGNATURE}]", f"nist[{nist.SIGNATURE}]"
_WORDS = "length[case:lc|tok:13a]"
_DIVERSITY = f"diversity[{diversity.SIGNATURE}]"

SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        *(
            Score(f"bleu{n}", _BLEU, bleu.statistics, partial(bleu.value, order=n))
            for n in range(1, bleu.MAX_ORDER + 1)
        ),
        *(
            Score(f"nist{n}", _NIST, nist.statistics, partial(nist.value, order=n))
            for n in range(1, nist.MAX_ORDER + 1)
        ),
        Score("chrf", f"chrf[{chrf.SIGNATURE}]", chrf.statistics, chrf.value),
        Score("length", _WORDS, ratios.length, ratios.ratio),
        Score("length_ratio", _WORDS, ratios.length_ratio, ratios.ratio),
        Score("repetition", "repetition[case:lc|space:one]", ratios.repetition, ratios.ratio),
        Score("turn_end_rate", "turn_end_rate[]", ratios.turn_end, ratios.ratio),
        Score("distinct1", _DIVERSITY, whole=partial(diversity.distinct, order=1)),
        Score("distinct2", _DIVERSITY, whole=partial(diversity.distinct, order=2)),
        Score("entropy4", _DIVERSITY, whole=partial(diversity.entropy, order=4)),
    )
}


def describe_scores(names: Iterable[str]) -> str:
    """How the scores of `names` are made, each rule once; perplexities, made from the loss, have none here."""
    return " ".join(dict.fromkeys(SCORES[name].signature for name in names if name not in PERPLEXITIES))


def compute_statistics(names: Iterable[str], replies: Sequence[Reply]) -> dict[str, np.ndarray]:
    """The statistics `(n, K)` of those of `names` that are values of sums; one array for all scores that share them."""
    made: dict[Callable, np.ndarray] = {}
    found = {}
    for name in names:
        rule = None if name in PERPLEXITIES else SCORES[name].statistics
        if rule is not None:
            if rule not in made:
                made[rule] = rule(replies)
            found[name] = made[rule]
    return found


def score_parts(
    names: Iterable[str], replies: Sequence[Reply], parts: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float]]:
    """Of each part the scores of `names` that are made from text, of the replies at its indices as one corpus;
    perplexities, from the loss, are not. The information of NIST's n-grams is that of all replies.

    Raises `KeyError` of a name that no score has.
    """
    names = [name for name in names if name not in PERPLEXITIES]
    rows = compute_statistics(names, replies)
    return {
        title: {
            name: SCORES[name].value(rows[name][list(indices)].sum(0))
            if name in rows
            else SCORES[name].whole([replies[index] for index in indices])
            for name in names
        }
        for title, indices in parts.items()
    }


def score_replies(names: Iterable[str], replies: Sequence[Reply]) -> dict[str, float]:
    """`scores_of_parts` of all replies as one part."""
    return score_parts(names, replies, {"all": range(len(replies))})["all"]


def weighted_score(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The score that `best_metric` means: `Σ weight · score`."""
    return sum(weight * scores[name] for name, weight in weights.items())
