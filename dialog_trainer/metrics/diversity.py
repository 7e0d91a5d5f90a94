"""How varied the n-grams of all replies are, as DialoGPT's `dstc/metrics.py` defines it (Zhang et al. 2020).

No sums: the same n-gram in two replies counts once. A resample holds replies twice and is for that alone less varied,
so a bootstrap interval would lie below the score; there is none. A score of many replies is no more to be compared with
one of few: more words bring fewer new ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from dialog_trainer.metrics.tokenize import split_words
from dialog_trainer.types import Reply

SIGNATURE = "case:lc|tok:13a|over:all replies"


def distinct(replies: Sequence[Reply], order: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016); 0 without one."""
    counts = _ngrams(replies, order)
    return len(counts) / counts.total() if counts else 0.0


def entropy(replies: Sequence[Reply], order: int) -> float:
    """`-Σ p ln p` over the n-grams, in nats (Zhang et al. 2018); 0 without one."""
    counts = _ngrams(replies, order)
    total = counts.total()
    return sum(count / total * math.log(total / count) for count in counts.values())


def _ngrams(replies: Sequence[Reply], order: int) -> Counter[tuple[str, ...]]:
    counts: Counter[tuple[str, ...]] = Counter()
    for reply in replies:
        text = split_words(reply.text)
        counts.update(tuple(text[start : start + order]) for start in range(len(text) - order + 1))
    return counts
