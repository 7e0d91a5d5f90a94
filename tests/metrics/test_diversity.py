"""Distinct n-grams and n-gram entropy, by hand."""

import math

import pytest
from helpers.replies import reply

from dialog_trainer.metrics.diversity import compute_distinct, compute_entropy


@pytest.mark.parametrize(
    ("texts", "order", "expected"),
    [
        (["a b", "a c"], 1, 3 / 4),
        # Over all replies, not the mean of each; n-grams do not cross from one reply to the next.
        (["a b a", "a b"], 2, 2 / 3),
        (["A b", "a B"], 2, 1 / 2),
        (["a b", "a c"], 2, 1.0),
        (["a", "", "b"], 2, 0.0),
        ([""], 1, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct(texts, order, expected):
    assert compute_distinct([reply(text) for text in texts], order) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "order", "expected"),
    [
        (["a b c d", "e f g h"], 4, math.log(2)),
        (["a b c d e", "a b c d", "x"], 4, 2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(3)),
        (["a a a a b"], 4, math.log(2)),
        (["a a a a a"], 4, 0.0),
        (["a b c", ""], 4, 0.0),
        ([], 4, 0.0),
        (["a b", "a"], 1, 2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(3)),
    ],
)
def test_entropy(texts, order, expected):
    assert compute_entropy([reply(text) for text in texts], order) == pytest.approx(expected)
