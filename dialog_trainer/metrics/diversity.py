"""Diversity of the n-grams of all replies together, as in DialoGPT's `dstc/metrics.py` (Zhang et al. 2020).

These scores are not sums: an n-gram in two replies counts once. They have no bootstrap interval, because a resample
contains replies twice and is less diverse for that reason alone. Compare only sets of equal size: more words bring
fewer new n-grams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dialog_trainer.metrics.tokenize import split_words

if TYPE_CHECKING:
    from dialog_trainer.types import Reply


def compute_distinct(replies: Sequence[Reply], order: int, tokenizer: str = "13a") -> float:
    """distinct-n (Li et al. 2016): different n-grams over all n-grams; 0 without one."""
    counts = _ngrams(replies, order, tokenizer)
    return len(counts) / counts.total() if counts else 0.0


def compute_entropy(replies: Sequence[Reply], order: int, tokenizer: str = "13a") -> float:
    """Entropy (Zhang et al. 2018): `-Σ p ln p` over the n-grams, in nats; 0 without one."""
    counts = _ngrams(replies, order, tokenizer)
    total = counts.total()
    return sum(count / total * math.log(total / count) for count in counts.values())


def _ngrams(replies: Sequence[Reply], order: int, tokenizer: str) -> Counter[tuple[str, ...]]:
    counts: Counter[tuple[str, ...]] = Counter()
    for reply in replies:
        text = split_words(reply.text, tokenizer)
        counts.update(tuple(text[start : start + order]) for start in range(len(text) - order + 1))
    return counts
