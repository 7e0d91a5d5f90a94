"""Perplexity per token, word and byte."""

import math

import numpy as np
import pytest

from dialog_trainer.metrics.perplexity import PERPLEXITIES, count_words_and_bytes


@pytest.mark.parametrize(("name", "count"), [("ppl", 8), ("ppl_word", 4), ("ppl_byte", 16)])
def test_each_perplexity_divides_by_its_own_count(name, count):
    assert PERPLEXITIES[name](np.array([8.0, 8, 4, 16])) == pytest.approx(math.exp(8 / count))


def test_dialogues_add_before_the_division():
    # The mean of both perplexities would be (e + e^3) / 2.
    assert PERPLEXITIES["ppl"](np.array([[1.0, 1, 1, 1], [9.0, 3, 1, 1]]).sum(0)) == pytest.approx(math.exp(10 / 4))


@pytest.mark.parametrize("name", PERPLEXITIES)
@pytest.mark.parametrize("sums", [[0.0, 0, 0, 0], [5.0, 0, 0, 0], [1e9, 1, 1, 1]])
def test_perplexity_is_at_most_e_to_the_700(name, sums):
    assert PERPLEXITIES[name](np.array(sums)) == math.exp(700)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["Yes, sir."], (4, 9)), (["고양이", "été"], (2, 9 + 5)), (["", "a b"], (2, 3)), ([], (0, 0))],
)
def test_words_and_bytes_of_texts(texts, expected):
    assert count_words_and_bytes(iter(texts)) == expected
