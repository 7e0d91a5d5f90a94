"""Perplexities as values of sums `(4,)`: nats, tokens, words and bytes.

Vocabularies cut a text into different numbers of tokens, so that `ppl` tells models of one vocabulary apart only; a word
and a byte are the same for all. The sums are over the same tokens: words and bytes are those of the texts (`sizes`)
whose tokens, and the tokens that end them, gave the nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from dialog_trainer.metrics.words import words

# Beyond it `exp` overflows.
_MAX_NATS = 700.0


def ppl(sums: np.ndarray) -> float:
    """`exp(nats / tokens)`, at most e^700, which it is where there are no tokens."""
    return _exp_mean(sums[0], sums[1])


def ppl_word(sums: np.ndarray) -> float:
    """`exp(nats / words)`, else as `ppl`."""
    return _exp_mean(sums[0], sums[2])


def ppl_byte(sums: np.ndarray) -> float:
    """`exp(nats / bytes)`, else as `ppl`."""
    return _exp_mean(sums[0], sums[3])


def sizes(texts: Iterable[str]) -> tuple[int, int]:
    """Words (as in `metrics.words`) and UTF-8 bytes of `texts`."""
    texts = list(texts)
    return sum(len(words(text)) for text in texts), sum(len(text.encode("utf-8")) for text in texts)


def _exp_mean(nats: float, count: float) -> float:
    return math.exp(min(nats / count, _MAX_NATS) if count else _MAX_NATS)


# By the names that options give them; lower is better for each.
PERPLEXITIES: dict[str, Callable[[np.ndarray], float]] = {"ppl": ppl, "ppl_word": ppl_word, "ppl_byte": ppl_byte}
