"""Corpus BLEU (Papineni et al. 2002) from sacrebleu's statistics, on a scale of 0 to 1.

Each reply has as many references as it has: matches are clipped at the largest count over them, the reference length is
the nearest, of two equally near the shorter. That is sacrebleu's `corpus_score` with None where a reference is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from dialog_trainer.types import Reply

SIGNATURE = "case:lc|tok:13a|smooth:exp"
MAX_ORDER = 4

# The score of one sentence is not used, only its counts; `effective_order`, which changes nothing of them, and `force`
# keep sacrebleu from printing advice.
_METRIC = BLEU(lowercase=True, tokenize="13a", max_ngram_order=MAX_ORDER, effective_order=True, force=True)


def statistics(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 10)`: words of the reply, words of the nearest reference, matches of order 1 to 4, n-grams of order 1 to 4.

    A reply shorter than an order has no n-gram of it.
    """
    rows = np.zeros((len(replies), 2 + 2 * MAX_ORDER))
    for row, reply in zip(rows, replies, strict=True):
        counted = _METRIC.sentence_score(reply.text, reply.targets())
        row[:] = counted.sys_len, counted.ref_len, *counted.counts, *counted.totals
    return rows


def value(sums: np.ndarray, order: int) -> float:
    """BLEU of orders 1 to `order` of the summed statistics `(10,)`; 0 without a match, or without an n-gram of an order."""
    words, reference_words, *counts = sums.tolist()
    return (
        BLEU.compute_bleu(
            correct=counts[:order],
            total=counts[MAX_ORDER : MAX_ORDER + order],
            sys_len=int(words),
            ref_len=int(reference_words),
            smooth_method="exp",
            max_ngram_order=order,
        ).score
        / 100
    )
