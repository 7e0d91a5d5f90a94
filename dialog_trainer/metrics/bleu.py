"""Corpus BLEU (Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation"), from 0 to 1.

The counts and the formula are sacrebleu's (Post 2018, "A call for clarity in reporting BLEU scores"). A reply may have
any number of references. Matches are clipped at the largest count over them. The reference length is the one nearest to
the reply's; of two equally near, the shorter. This equals sacrebleu's `corpus_score` with None for a missing reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dialog_trainer.metrics.tokenize import load_bleu

if TYPE_CHECKING:
    import numpy as np

    from dialog_trainer.types import Reply

MAX_ORDER = 4


def collect_statistics(replies: Sequence[Reply], tokenizer: str = "13a") -> np.ndarray:
    """`(n, 10)` float64: words of the reply, words of the nearest reference, matches of order 1 to 4, n-grams of order
    1 to 4. A reply shorter than an order has no n-gram of it."""
    import numpy as np

    bleu = load_bleu(tokenizer)
    rows = np.zeros((len(replies), 2 + 2 * MAX_ORDER))
    for row, reply in zip(rows, replies, strict=True):
        counts = bleu.sentence_score(reply.text, reply.accepted_texts())
        row[:] = counts.sys_len, counts.ref_len, *counts.counts, *counts.totals
    return rows


def compute_score(sums: np.ndarray, order: int) -> float:
    """BLEU of orders 1 to `order` of summed statistics `(10,)`, with exponential smoothing.

    0 without a match, or without an n-gram of one of the orders.
    """
    words, reference_words, *counts = sums.tolist()
    score: float = (
        load_bleu("13a")  # the formula is that of any tokenizer
        .compute_bleu(
            correct=counts[:order],
            total=counts[MAX_ORDER : MAX_ORDER + order],
            sys_len=int(words),
            ref_len=int(reference_words),
            smooth_method="exp",
            max_ngram_order=order,
        )
        .score
    )
    return score / 100
