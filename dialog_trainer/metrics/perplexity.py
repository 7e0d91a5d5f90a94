"""Perplexities as values of sums `(4,)`: nats, tokens, words and bytes.

Vocabularies cut a text into different numbers of tokens, so that `ppl` tells models of one vocabulary apart only; a word
and a byte are the same for all. The sums are over the same tokens: words and bytes are those of the texts (`sizes`)
whose tokens, and the tokens that end them, gave the nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from dialog_trainer.metrics.tokenize import split_words

# Beyond it `exp` overflows.
_MAX_NATS = 700.0


def perplexity(sums: np.ndarray, place: int) -> float:
    """`exp(nats / count)` with the count at `place` of the sums; at most e^700, which it is where the count is 0."""
    return math.exp(min(sums[0] / sums[place], _MAX_NATS) if sums[place] else _MAX_NATS)


def count_words_and_bytes(texts: Iterable[str]) -> tuple[int, int]:
    """Words (as in `metrics.words`) and UTF-8 bytes of `texts`."""
    texts = list(texts)
    return sum(len(split_words(text)) for text in texts), sum(len(text.encode("utf-8")) for text in texts)


# By the names that options give them; lower is better for each.
PERPLEXITIES: dict[str, Callable[[np.ndarray], float]] = {
    name: partial(perplexity, place=place) for place, name in enumerate(("ppl", "ppl_word", "ppl_byte"), start=1)
}
