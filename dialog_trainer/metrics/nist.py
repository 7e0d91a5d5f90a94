"""NIST (Doddington 2002) by the rule of the mteval script.

Matches are clipped at the largest count over the references of the reply; the reference length is their mean. The
information of an n-gram is `log2(count of its first n - 1 words / its count)` in all references of the call (for single
words: number of all words / count). NIST of other references has other weights: within one call the weights are fixed,
so that the statistics add, over parts and over resampled dialogues; two calls are alike only if their references are.

nltk's `corpus_nist` differs where there are several references (it takes one reference for each order instead of
clipping over all) and raises an error where no reply has n words; hence our own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dialog_trainer.metrics.tokenize import split_words
from dialog_trainer.types import Reply

SIGNATURE = "case:lc|tok:13a|rule:mteval"
MAX_ORDER = 5
# Chosen so that the brevity penalty is 0.5 where the replies have two thirds of the references' words.
_BETA = math.log(0.5) / math.log(1.5) ** 2

_Gram = tuple[str, ...]


def statistics(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 11)`: mean words of the references, information of the matches of order 1 to 5, n-grams of order 1 to 5."""
    said = [Counter(_ngrams(split_words(reply.text))) for reply in replies]
    references = [[split_words(text) for text in reply.targets()] for reply in replies]
    information = _information([text for texts in references for text in texts], set().union(*said))
    rows = np.zeros((len(replies), 1 + 2 * MAX_ORDER))
    for row, grams, texts in zip(rows, said, references, strict=True):
        row[0] = sum(map(len, texts)) / len(texts)
        clip: Counter[_Gram] = Counter()
        for text in texts:
            clip |= Counter(gram for gram in _ngrams(text) if gram in grams)
        for gram, count in grams.items():
            row[MAX_ORDER + len(gram)] += count
            if gram in clip:
                row[len(gram)] += min(count, clip[gram]) * information[gram]
    return rows


def value(sums: np.ndarray, order: int) -> float:
    """NIST of orders 1 to `order` of the summed statistics `(11,)`. An order without n-grams adds 0; 0 without words."""
    reference_words, *counts = sums.tolist()
    found, total = counts[:order], counts[MAX_ORDER : MAX_ORDER + order]
    if not total[0] or not reference_words:
        return 0.0
    gain = sum(bits / count for bits, count in zip(found, total, strict=True) if count)
    return gain * math.exp(_BETA * math.log(min(1.0, total[0] / reference_words)) ** 2)


def _ngrams(text: Sequence[str]) -> list[_Gram]:
    """All of orders 1 to 5."""
    return [tuple(text[start : start + n]) for n in range(1, MAX_ORDER + 1) for start in range(len(text) - n + 1)]


def _information(texts: Sequence[Sequence[str]], wanted: set[_Gram]) -> dict[_Gram, float]:
    """Bits of each n-gram of `wanted` that stands in `texts`; with an n-gram, `wanted` holds its first n - 1 words."""
    # Others are not counted: of five references each they would fill hundreds of megabytes.
    counts = Counter(gram for text in texts for gram in _ngrams(text) if gram in wanted)
    num_words = sum(map(len, texts))
    return {
        gram: math.log2((counts[gram[:-1]] if len(gram) > 1 else num_words) / count) for gram, count in counts.items()
    }
