"""chrF, the character n-gram F-score (Popović 2015), with sacrebleu's counts and default settings, from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from sacrebleu.metrics.chrf import CHRF

    from dialog_trainer.types import Reply

MAX_ORDER = 6


def collect_statistics(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 18)` float64: for each order 1 to 6 the character n-grams of the reply, of the reference, and the matches.

    Of several references, the one that gives the reply the best chrF.
    """
    import numpy as np

    rows = np.zeros((len(replies), 3 * MAX_ORDER))
    for row, reply in zip(rows, replies, strict=True):
        # sacrebleu has no public function for statistics. Its own bootstrap has used this method since 2.0.
        row[:] = _sacrebleu()._extract_corpus_statistics([reply.text], [[text] for text in reply.accepted_texts()])[0]
    return rows


def compute_score(sums: np.ndarray) -> float:
    """chrF of summed statistics `(18,)`. An order that one side lacks is left out; 0 where all are."""
    score: float = _sacrebleu()._compute_score_from_stats(sums.tolist()).score
    return score / 100


@cache
def _sacrebleu() -> CHRF:
    """sacrebleu's metric. It is imported here because the registry lists the scores without it."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(char_order=MAX_ORDER)
