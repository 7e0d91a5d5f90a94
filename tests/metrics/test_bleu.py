"""Corpus BLEU from summed statistics, against sacrebleu's corpus score."""

import itertools
import logging

import numpy as np
import pytest
import sacrebleu
from helpers.replies import PAIRS, replies_of
from hypothesis import given, settings

from dialog_trainer.metrics import bleu


def bleu_of(texts, references, order: int) -> float:
    return bleu.compute_score(bleu.collect_statistics(replies_of(texts, references)).sum(0), order)


def by_sacrebleu(texts, references, order: int) -> float:
    """None in the place of a missing reference."""
    streams = [list(stream) for stream in itertools.zip_longest(*references)]
    # zip_longest: sacrebleu takes one stream of references for each place, with None where a reply has fewer.
    return sacrebleu.BLEU(lowercase=True, max_ngram_order=order).corpus_score(texts, streams).score / 100


@pytest.mark.parametrize("order", range(1, 5))
@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_bleu_equals_sacrebleu(order, pairs):
    texts, references = [text for text, _ in pairs], [those for _, those in pairs]
    columns = max(map(len, references))
    padded = [[*those, *[None] * (columns - len(those))] for those in references]
    assert bleu_of(texts, references, order) == pytest.approx(by_sacrebleu(texts, padded, order), abs=1e-9)


@pytest.mark.parametrize(
    ("texts", "references", "order", "expected"),
    [
        (["the cat sat"], [["the cat sat"]], 2, 1.0),
        (["The CAT sat"], [["the cat sat"]], 2, 1.0),
        # 2 of 3 words and 1 of 2 pairs are in the reference.
        (["the cat ran"], [["the cat sat"]], 2, (2 / 3 * 1 / 2) ** 0.5),
        # Clipped over both references: both pairs are in one of them.
        (["the cat ran"], [["the cat sat", "a cat ran"]], 2, 1.0),
        # Each reply has its own number of references: 2 of 2 words, 1 of 2 words.
        (["a b", "a c"], [["a x", "y b"], ["a d"]], 1, 3 / 4),
        # One corpus: 3 of 4 words, not the mean of 1 and 1/2.
        (["a b", "a c"], [["a b"], ["a d"]], 1, 3 / 4),
        # Half as long as the reference: exp(1 - 4/2).
        (["a b"], [["a b c d"]], 1, 0.36787944117144233),
        # The nearest reference is as long; of two equally near ones the shorter is.
        (["a b"], [["a b c d", "a b"]], 1, 1.0),
        (["a b"], [["a b c", "b"]], 1, 1.0),
        # No pair matches: half a match (exponential smoothing).
        (["a b c"], [["c b a"]], 2, (1 * (1 / 2) / 2) ** 0.5),
        # A reply of one word has no pair, and BLEU of order 2 is undefined: 0.
        (["a"], [["a"]], 2, 0.0),
        (["a", "a b"], [["a"], ["a b"]], 2, 1.0),
        ([""], [["the cat sat"]], 2, 0.0),
        (["", "a b"], [["c"], ["a b"]], 1, 0.6065306597126334),
        (["the cat sat"], [[""]], 2, 0.0),
        ([], [], 2, 0.0),
    ],
)
def test_bleu_by_hand(texts, references, order, expected):
    assert bleu_of(texts, references, order) == pytest.approx(expected, abs=1e-9)


def test_statistics_of_a_reply():
    # "the" is twice in the reply and once in either reference; the second is the nearest in length.
    [row] = bleu.collect_statistics(replies_of(["The cat, the mat"], [["the cat on a red old mat", "the mat , cat"]]))
    assert row.tolist() == [5, 4, 4, 2, 0, 0, 5, 4, 3, 2]
    assert bleu.collect_statistics([]).shape == (0, 10)


def test_score_does_not_change_the_sums():
    sums = bleu.collect_statistics(replies_of(["a b c"], [["c b a"]])).sum(0)
    before = sums.copy()
    assert bleu.compute_score(sums, 2) == bleu.compute_score(sums, 2) > 0
    assert np.array_equal(sums, before)


def test_sacrebleu_prints_no_advice_on_tokenized_text(caplog):
    with caplog.at_level(logging.WARNING):
        assert bleu_of(["how are you ."] * 200, [["how are you ."]] * 200, 2) == pytest.approx(1.0)
    assert caplog.records == []
