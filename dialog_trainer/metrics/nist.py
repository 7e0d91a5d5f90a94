"""NIST (Doddington 2002) by the rule of the mteval script.

nltk's `corpus_nist` differs where there are several references (it takes one reference for each order instead of
clipping over all) and raises an error where no reply has n words; hence our own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from dialog_trainer.metrics.words import words

SIGNATURE = "case:lc|tok:13a|rule:mteval"
# Chosen so that the brevity penalty is 0.5 where the replies have two thirds of the references' words.
_BETA = math.log(0.5) / math.log(1.5) ** 2


def nist(replies: Sequence[str], references: Sequence[Sequence[str]], order: int) -> float:
    """Of all `replies` as one corpus; `references[i]` are those of reply `i`. An order without n-grams adds 0.

    Matches are clipped at the largest count over the references; the information of an n-gram comes from all
    references; the reference length is the mean over the references of each reply.
    """
    reply_words = [words(reply) for reply in replies]
    reference_words = [[words(text) for text in texts] for texts in references]
    information = _information([text for texts in reference_words for text in texts], order)
    matched, total = [0.0] * order, [0] * order
    for hypothesis, texts in zip(reply_words, reference_words, strict=True):
        for n in range(1, order + 1):
            counts = _ngrams(hypothesis, n)
            clip = Counter()
            for text in texts:
                clip |= _ngrams(text, n)
            matched[n - 1] += sum(
                min(count, clip[gram]) * information[gram] for gram, count in counts.items() if gram in clip
            )
            total[n - 1] += counts.total()
    hypothesis_length = sum(map(len, reply_words))
    reference_length = sum(sum(map(len, texts)) / len(texts) for texts in reference_words)
    if not hypothesis_length or not reference_length:
        return 0.0
    gain = sum(found / count for found, count in zip(matched, total, strict=True) if count)
    return gain * math.exp(_BETA * math.log(min(1.0, hypothesis_length / reference_length)) ** 2)


def _ngrams(text: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[start : start + n]) for start in range(len(text) - n + 1))


def _information(texts: Sequence[Sequence[str]], order: int) -> dict[tuple[str, ...], float]:
    """`log2(count of the first n - 1 words / count of the n-gram)`; for single words, of all words."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for n in range(1, order + 1):
            counts.update(_ngrams(text, n))
    num_words = sum(map(len, texts))
    return {
        gram: math.log2((counts[gram[:-1]] if len(gram) > 1 else num_words) / count) for gram, count in counts.items()
    }
