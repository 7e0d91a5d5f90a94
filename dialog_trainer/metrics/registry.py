"""Metric registry: the only list of score names, each with its signature, direction, statistics and value.

Nearly every score is the value of sums. `statistics(replies)` has a row for each reply, and `value` of a sum of rows is
the score of those replies as one corpus. So rows computed once give the score of all replies, of a part of them and of
each bootstrap resample. With no replies every score is 0; an empty reply is a reply without words.

Importing this module imports neither numpy nor sacrebleu: `--help` lists the scores.

A metric of your own is one record in a module of yours. This one is the share of replies that end with a question mark;
`metrics.extra=[my_package.question_rate]` adds it to a run.

>>> import numpy as np
>>> from dialog_trainer.metrics.bootstrap import confidence_interval
>>> from dialog_trainer.metrics.ratios import divide
>>> from dialog_trainer.metrics.registry import SCORES, Score, score_replies
>>> from dialog_trainer.types import Reply
>>> def count_questions(replies):
...     return np.array([(reply.text.endswith("?"), 1) for reply in replies], dtype=float).reshape(-1, 2)
>>> question_rate = Score("question_rate", "question_rate[last character]", count_questions, divide, better="neither")
>>> texts = ["why ?", "no .", "you ?", "yes ?"]
>>> replies = [Reply(str(n), 1, ("hello",), "hi", text, ended=True) for n, text in enumerate(texts)]
>>> score_replies(["question_rate"], replies, {**SCORES, "question_rate": question_rate})
{'question_rate': 0.75}
>>> confidence_interval(count_questions(replies), divide, seed=0)
(0.25, 1.0)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

from dialog_trainer.errors import ConfigError
from dialog_trainer.metrics import bleu, chrf, diversity, nist, ratios
from dialog_trainer.metrics.perplexity import PERPLEXITIES

if TYPE_CHECKING:
    import numpy as np

    from dialog_trainer.types import Reply


@dataclass(frozen=True, slots=True)
class Score:
    """One score, at least 0.

    `signature` says how it is computed; runs with equal signatures can be compared. `statistics(replies)` `(n, K)`
    float64 has a row for each reply, and `value` computes the score from a sum of rows `(K,)`. Scores that share a
    `statistics` function share its result. A score that is not a value of sums has `score_corpus(replies)` instead of
    both, and no confidence interval.

    `better` is the direction: whether a "higher" or a "lower" value is better, or "neither". `from_loss`: a perplexity,
    whose rows `(4,)` come from the loss (see `perplexity.py`) and whose signature depends on the run. `in_original`: the
    protocol `original` computes it too.

    Raises `ValueError` if it has neither or both of `value` and `score_corpus`.
    """

    name: str
    signature: str
    statistics: Callable[[Sequence[Reply]], np.ndarray] | None = None
    value: Callable[[np.ndarray], float] | None = None
    score_corpus: Callable[[Sequence[Reply]], float] | None = None
    better: Literal["higher", "lower", "neither"] = "higher"
    from_loss: bool = False
    in_original: bool = False

    def __post_init__(self) -> None:
        has_sums = self.value is not None and (self.statistics is not None or self.from_loss)
        if has_sums == (self.score_corpus is not None):
            raise ValueError(f"score {self.name}: pass either statistics and value, or score_corpus")
        if self.better not in ("higher", "lower", "neither"):
            raise ValueError(f"score {self.name}: better={self.better!r} must be 'higher', 'lower' or 'neither'")


# The scores to compute, by name.
Metrics = Mapping[str, Score]


@cache
def build_scores(tokenizer: str) -> Mapping[str, Score]:
    """The built-in scores, by name, over words of `tokenizer`, one of sacrebleu's (see `metrics/tokenize.py`)."""
    rule = f"case:lc|tok:{tokenizer}"
    words = partial(ratios.count_words, tokenizer=tokenizer)
    distinct = partial(diversity.compute_distinct, tokenizer=tokenizer)
    entropy = partial(diversity.compute_entropy, tokenizer=tokenizer)
    # One function for all orders: `compute_statistics` calls it once.
    bleu_rows = partial(bleu.collect_statistics, tokenizer=tokenizer)
    nist_rows = partial(nist.collect_statistics, tokenizer=tokenizer)
    with_references = partial(ratios.count_words_and_references, tokenizer=tokenizer)
    bleu_rule, nist_rule = f"bleu[{rule}|smooth:exp]", f"nist[{rule}|rule:mteval]"
    length_rule, diversity_rule = f"length[{rule}]", f"diversity[{rule}|over:all replies]"
    scores = (
        *(
            Score(name, "", value=value, better="lower", from_loss=True, in_original=True)
            for name, value in PERPLEXITIES.items()
        ),
        *(
            Score(f"bleu{n}", bleu_rule, bleu_rows, partial(bleu.compute_score, order=n), in_original=n in (2, 4))
            for n in range(1, bleu.MAX_ORDER + 1)
        ),
        *(
            Score(f"nist{n}", nist_rule, nist_rows, partial(nist.compute_score, order=n), in_original=n in (2, 4))
            for n in range(1, nist.MAX_ORDER + 1)
        ),
        Score("chrf", "chrf[case:mixed|eff:yes|nc:6|nw:0|space:no]", chrf.collect_statistics, chrf.compute_score),
        Score("length", length_rule, words, ratios.divide, better="neither"),
        Score("length_ratio", length_rule, with_references, ratios.divide, better="neither"),
        Score("repetition", "repetition[case:lc|space:one]", ratios.count_repetitions, ratios.divide, better="lower"),
        Score("turn_end_rate", "turn_end_rate[]", ratios.count_turn_ends, ratios.divide),
        Score("distinct1", diversity_rule, score_corpus=partial(distinct, order=1)),
        Score("distinct2", diversity_rule, score_corpus=partial(distinct, order=2)),
        Score("entropy4", diversity_rule, score_corpus=partial(entropy, order=4)),
    )
    return {score.name: score for score in scores}


SCORES = build_scores("13a")
SCORE_NAMES = tuple(SCORES)
LOWER_IS_BETTER = tuple(score.name for score in SCORES.values() if score.better == "lower")
WITHOUT_DIRECTION = tuple(score.name for score in SCORES.values() if score.better == "neither")
ORIGINAL_SCORE_NAMES = tuple(score.name for score in SCORES.values() if score.in_original)


def load_extra_metrics(dotted_names: Iterable[str], scores: Mapping[str, Score] = SCORES) -> dict[str, Score]:
    """`scores` and the records that `dotted_names` name, as `my_package.question_rate`. Imports their modules.

    Raises `ConfigError` with every name that cannot be imported, is not a `Score`, is called other than its record or
    is taken.
    """
    loaded, errors = dict(scores), []
    for dotted in dotted_names:
        place = f"metrics.extra={dotted}"
        module, _, attribute = dotted.rpartition(".")
        try:
            record = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a module of the user's own: it may raise anything
            errors.append(
                f"{place}: cannot be imported ({type(error).__name__}: {error}); pass a dotted name as "
                "my_package.question_rate, whose module is in the current folder or installed"
            )
            continue
        if not isinstance(record, Score):
            errors.append(f"{place}: is not a Score but {record!r:.80}; name a dialog_trainer.metrics.registry.Score")
        elif record.name != attribute:
            errors.append(f"{place}: its record has the name {record.name}; give both the same name")
        elif attribute in loaded:
            errors.append(f"{place}: there is a score {attribute} already; choose another name")
        else:
            loaded[attribute] = record
    if errors:
        raise ConfigError(errors)
    return loaded


def describe_scores(names: Iterable[str], scores: Mapping[str, Score] = SCORES) -> str:
    """The signatures of the scores `names`, each once; perplexities have none here."""
    return " ".join(dict.fromkeys(scores[name].signature for name in names if not scores[name].from_loss))


def compute_statistics(
    names: Iterable[str], replies: Sequence[Reply], scores: Mapping[str, Score] = SCORES
) -> dict[str, np.ndarray]:
    """The statistics `(n, K)` of those of `names` that are values of sums over replies. Scores that share the function
    share the array. Raises `KeyError` for an unknown name."""
    arrays: dict[Callable[[Sequence[Reply]], np.ndarray], np.ndarray] = {}
    statistics = {}
    for name in names:
        function = scores[name].statistics
        if function is not None:
            if function not in arrays:
                arrays[function] = function(replies)
            statistics[name] = arrays[function]
    return statistics


def score_parts(
    names: Iterable[str],
    replies: Sequence[Reply],
    parts: Mapping[str, Sequence[int]],
    scores: Mapping[str, Score] = SCORES,
) -> dict[str, dict[str, float]]:
    """The scores of each part of `replies`, given by indices, as one corpus. Perplexities of `names` are left out.

    The information of NIST's n-grams is that of all replies. Raises `KeyError` for an unknown name.
    """
    records = [scores[name] for name in names if not scores[name].from_loss]
    rows = compute_statistics([record.name for record in records], replies, scores)

    def score(record: Score, indices: Sequence[int]) -> float:
        if record.value is not None:
            return record.value(rows[record.name][list(indices)].sum(0))
        assert record.score_corpus is not None
        return record.score_corpus([replies[index] for index in indices])

    return {title: {one.name: score(one, indices) for one in records} for title, indices in parts.items()}


def score_replies(
    names: Iterable[str], replies: Sequence[Reply], scores: Mapping[str, Score] = SCORES
) -> dict[str, float]:
    """The scores of all replies as one corpus, as `score_parts`."""
    return score_parts(names, replies, {"all": range(len(replies))}, scores)["all"]


def weighted_score(scores: Mapping[str, float | None], weights: Mapping[str, float]) -> float:
    """`Σ weight · score`: the value that `best_metric` keeps the highest of. A score that is None, as there is no reply,
    adds 0. Raises `KeyError` for a missing score."""
    return sum(weight * (scores[name] or 0.0) for name, weight in weights.items())
