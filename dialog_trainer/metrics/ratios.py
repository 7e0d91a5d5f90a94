"""Scores that are one sum over another: mean length, and shares of the replies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dialog_trainer.metrics.tokenize import split_words
from dialog_trainer.types import Reply


def length(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 2)`: words, 1."""
    return _rows([(len(split_words(reply.text)), 1) for reply in replies])


def length_ratio(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 2)`: words of the reply, mean words of its references."""
    return _rows([(len(split_words(reply.text)), _mean_words(reply.targets())) for reply in replies])


def repetition(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 2)`: whether the reply is an earlier turn of its dialogue in other case and spaces at most, 1."""
    return _rows([(_plain(reply.text) in map(_plain, reply.history), 1) for reply in replies])


def turn_end(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 2)`: whether the reply ended by itself, 1."""
    return _rows([(reply.ended, 1) for reply in replies])


def ratio(sums: np.ndarray) -> float:
    """First of the summed statistics `(2,)` over the second; 0 where that is 0."""
    above, below = sums.tolist()
    return above / below if below else 0.0


def _rows(pairs: list[tuple[float, float]]) -> np.ndarray:
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def _mean_words(texts: Sequence[str]) -> float:
    return sum(len(split_words(text)) for text in texts) / len(texts)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
