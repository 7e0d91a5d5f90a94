"""chrF (Popović 2015) from sacrebleu's statistics with its default settings, on a scale of 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import CHRF

from dialog_trainer.types import Reply

SIGNATURE = "case:mixed|eff:yes|nc:6|nw:0|space:no"

# sacrebleu returns no statistics; these two hooks are those by which its own bootstrap gets at them, since 2.0.
_METRIC = CHRF()
_statistics, _score = _METRIC._extract_corpus_statistics, _METRIC._compute_score_from_stats


def statistics(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 18)`: for each order 1 to 6 the n-grams of characters of the reply, of the reference, and the matches.

    Of several references the one that gives the reply the best chrF.
    """
    rows = np.zeros((len(replies), 3 * CHRF.CHAR_ORDER))
    for row, reply in zip(rows, replies, strict=True):
        row[:] = _statistics([reply.text], [[text] for text in reply.targets()])[0]
    return rows


def value(sums: np.ndarray) -> float:
    """chrF of the summed statistics `(18,)`; an order that one side lacks is left out, 0 where all are."""
    return _score(sums.tolist()).score / 100
