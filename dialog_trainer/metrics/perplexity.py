"""Perplexity per token, word and byte, from sums `(4,)`: nats, tokens, words, bytes.

Tokenizers split a text into different numbers of tokens, so `ppl` compares only models with the same tokenizer. Words
and bytes are the same for all models: `ppl_word` and `ppl_byte` compare any two. All four sums are over the same texts:
the nats are those of their tokens and of the tokens that end their turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from dialog_trainer.metrics.tokenize import split_words

if TYPE_CHECKING:
    import numpy as np

# exp() overflows above it.
_MAX_NATS = 700.0


def compute_perplexity(sums: np.ndarray, column: int) -> float:
    """`exp(nats / count)` with the count in `column` of `sums` `(4,)`; at most e^700, and e^700 where the count is 0."""
    nats, count = float(sums[0]), float(sums[column])
    return math.exp(min(nats / count, _MAX_NATS) if count else _MAX_NATS)


def count_words_and_bytes(texts: Iterable[str], tokenizer: str = "13a") -> tuple[int, int]:
    """Words (`split_words`) and UTF-8 bytes of all `texts`."""
    texts = list(texts)
    return sum(len(split_words(text, tokenizer)) for text in texts), sum(len(text.encode("utf-8")) for text in texts)


PERPLEXITIES: dict[str, Callable[[np.ndarray], float]] = {
    name: partial(compute_perplexity, column=column)
    for column, name in enumerate(("ppl", "ppl_word", "ppl_byte"), start=1)
}
