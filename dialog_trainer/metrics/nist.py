"""NIST score (Doddington 2002, "Automatic evaluation of machine translation quality using n-gram co-occurrence
statistics") by the rule of the mteval script.

Matches are clipped at the largest count over the references of the reply; the reference length is their mean. The
information of an n-gram is `log2(count of its first n - 1 words / its count)` in all references of the call; for a
single word, `log2(number of all words / its count)`. Other references give other information. Within one call it is
fixed, so the statistics add over parts and over bootstrap resamples. Two calls compare only with equal references.

nltk's `corpus_nist` is not used: with several references it takes one of them for each order instead of clipping over
all, and it raises an error where no reply has n words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dialog_trainer.metrics.tokenize import split_words

if TYPE_CHECKING:
    import numpy as np

    from dialog_trainer.types import Reply

MAX_ORDER = 5
# The brevity penalty is 0.5 where the replies have two thirds of the references' words.
_BETA = math.log(0.5) / math.log(1.5) ** 2

_Gram = tuple[str, ...]


def collect_statistics(replies: Sequence[Reply], tokenizer: str = "13a") -> np.ndarray:
    """`(n, 11)` float64: mean words of the references, information of the matches of order 1 to 5, n-grams of order 1
    to 5."""
    import numpy as np  # not above: the registry lists the scores without it

    reply_grams = [Counter(_ngrams(split_words(reply.text, tokenizer))) for reply in replies]
    references = [[split_words(text, tokenizer) for text in reply.accepted_texts()] for reply in replies]
    information = _information([text for texts in references for text in texts], set[_Gram]().union(*reply_grams))
    rows = np.zeros((len(replies), 1 + 2 * MAX_ORDER))
    for row, grams, texts in zip(rows, reply_grams, references, strict=True):
        row[0] = sum(map(len, texts)) / len(texts)
        clip: Counter[_Gram] = Counter()
        for text in texts:
            clip |= Counter(gram for gram in _ngrams(text) if gram in grams)
        for gram, count in grams.items():
            row[MAX_ORDER + len(gram)] += count
            if gram in clip:
                row[len(gram)] += min(count, clip[gram]) * information[gram]
    return rows


def compute_score(sums: np.ndarray, order: int) -> float:
    """NIST of orders 1 to `order` of summed statistics `(11,)`. An order without n-grams adds 0; 0 without words."""
    reference_words, *counts = sums.tolist()
    information, totals = counts[:order], counts[MAX_ORDER : MAX_ORDER + order]
    if not totals[0] or not reference_words:
        return 0.0
    gain = float(sum(bits / count for bits, count in zip(information, totals, strict=True) if count))
    return gain * math.exp(_BETA * math.log(min(1.0, totals[0] / reference_words)) ** 2)


def _ngrams(text: Sequence[str]) -> list[_Gram]:
    """All n-grams of orders 1 to 5."""
    return [tuple(text[start : start + n]) for n in range(1, MAX_ORDER + 1) for start in range(len(text) - n + 1)]


def _information(texts: Sequence[Sequence[str]], wanted: set[_Gram]) -> dict[_Gram, float]:
    """Bits of each n-gram of `wanted` that `texts` contain. `wanted` contains the first n - 1 words of each n-gram too."""
    # Other n-grams are not counted: with five references a reply they would take hundreds of megabytes.
    counts = Counter(gram for text in texts for gram in _ngrams(text) if gram in wanted)
    num_words = sum(map(len, texts))
    return {
        gram: math.log2((counts[gram[:-1]] if len(gram) > 1 else num_words) / count) for gram, count in counts.items()
    }
