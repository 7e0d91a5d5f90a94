"""The scores by name. A score is a function of replies and references."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from dialog_trainer.metrics import bleu as bleu_rule
from dialog_trainer.metrics import nist as nist_rule

Score = Callable[[Sequence[str], Sequence[Sequence[str]]], float]

SCORES: dict[str, Score] = {
    **{f"bleu{order}": partial(bleu_rule.bleu, order=order) for order in range(1, 5)},
    **{f"nist{order}": partial(nist_rule.nist, order=order) for order in range(1, 6)},
}
SIGNATURE = f"bleu[{bleu_rule.SIGNATURE}] nist[{nist_rule.SIGNATURE}]"


def text_scores(names: Iterable[str], replies: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """The scores of `names` that are made from text, of all replies as one corpus; `ppl`, made from the loss, is not."""
    return {name: SCORES[name](replies, references) for name in names if name in SCORES}


def weighted(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The score that `best_metric` means: `Σ weight · score`."""
    return sum(weight * scores[name] for name, weight in weights.items())
