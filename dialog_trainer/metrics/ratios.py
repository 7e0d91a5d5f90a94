"""Scores that are one sum divided by another: reply length, length ratio, repetition rate, turn end rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dialog_trainer.metrics.tokenize import split_words

if TYPE_CHECKING:
    import numpy as np

    from dialog_trainer.types import Reply


def count_words(replies: Sequence[Reply], tokenizer: str = "13a") -> np.ndarray:
    """`(n, 2)` float64: words of the reply, 1."""
    return _rows([(len(split_words(reply.text, tokenizer)), 1) for reply in replies])


def count_words_and_references(replies: Sequence[Reply], tokenizer: str = "13a") -> np.ndarray:
    """`(n, 2)` float64: words of the reply, mean words of its references."""
    return _rows(
        [(len(split_words(reply.text, tokenizer)), _mean_words(reply.accepted_texts(), tokenizer)) for reply in replies]
    )


def count_repetitions(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 2)` float64: whether the reply repeats an earlier turn of its dialogue, apart from case and spaces; 1."""
    return _rows([(_normalize(reply.text) in map(_normalize, reply.history), 1) for reply in replies])


def count_turn_ends(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 2)` float64: whether the model ended the reply itself, 1."""
    return _rows([(reply.ended, 1) for reply in replies])


def divide(sums: np.ndarray) -> float:
    """The first of summed statistics `(2,)` over the second; 0 where the second is 0."""
    numerator, denominator = sums.tolist()
    return numerator / denominator if denominator else 0.0


def _rows(pairs: list[tuple[float, float]]) -> np.ndarray:
    import numpy as np  # not above: the registry lists the scores without it

    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def _mean_words(texts: Sequence[str], tokenizer: str) -> float:
    return sum(len(split_words(text, tokenizer)) for text in texts) / len(texts)


def _normalize(text: str) -> str:
    return " ".join(text.lower().split())
