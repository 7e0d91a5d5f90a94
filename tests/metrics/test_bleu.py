"""Corpus BLEU from statistics, against sacrebleu's own corpus score."""

import itertools
import logging

import numpy as np
import pytest
import sacrebleu
from helpers.replies import PAIRS, replies_of
from hypothesis import given, settings

from dialog_trainer.metrics import bleu


def bleu_of(texts, references, order: int) -> float:
    return bleu.value(bleu.statistics(replies_of(texts, references)).sum(0), order)


def by_sacrebleu(texts, references, order: int) -> float:
    """None stands where a reply has fewer references than another."""
    streams = [list(stream) for stream in itertools.zip_longest(*references)]
    # sacrebleu looks at the first text of each stream, which it wants to be one or None.
    return sacrebleu.BLEU(lowercase=True, max_ngram_order=order).corpus_score(texts, streams).score / 100


@pytest.mark.parametrize("order", range(1, 5))
@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_bleu_is_sacrebleus_of_the_whole_corpus(order, pairs):
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
        # One corpus: 3 of 4 words, and not the mean of 1 and 1/2.
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


def test_the_statistics_of_a_reply():
    # "the" is said twice and stands once in either reference; the second is the nearest in length.
    [row] = bleu.statistics(replies_of(["The cat, the mat"], [["the cat on a red old mat", "the mat , cat"]]))
    assert row.tolist() == [5, 4, 4, 2, 0, 0, 5, 4, 3, 2]
    assert bleu.statistics([]).shape == (0, 10)


def test_the_value_leaves_the_sums_as_they_are():
    sums = bleu.statistics(replies_of(["a b c"], [["c b a"]])).sum(0)
    before = sums.copy()
    assert bleu.value(sums, 2) == bleu.value(sums, 2) > 0
    assert np.array_equal(sums, before)


def test_tokenised_dialogues_are_scored_without_a_word_from_sacrebleu(caplog):
    with caplog.at_level(logging.WARNING):
        assert bleu_of(["how are you ."] * 200, [["how are you ."]] * 200, 2) == pytest.approx(1.0)
    assert caplog.records == []
