"""Corpus BLEU against sacrebleu."""

import logging

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.metrics.bleu import bleu

TEXT = st.lists(st.sampled_from(["The", "the", "cat", "sat", ".", ",", "I'm", "$5.50", "고양이"]), max_size=8).map(
    " ".join
)


def by_sacrebleu(replies, references, order: int) -> float:
    streams = [list(stream) for stream in zip(*references, strict=True)]
    return sacrebleu.BLEU(lowercase=True, max_ngram_order=order).corpus_score(replies, streams).score / 100


@pytest.mark.parametrize("order", range(1, 5))
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=n, max_size=n)), min_size=1))
)
def test_bleu_is_sacrebleus_of_the_whole_corpus(order, pairs):
    replies, references = [reply for reply, _ in pairs], [texts for _, texts in pairs]
    assert bleu(replies, references, order) == pytest.approx(by_sacrebleu(replies, references, order), abs=1e-9)


@pytest.mark.parametrize(
    ("replies", "references", "order", "expected"),
    [
        (["the cat sat"], [["the cat sat"]], 2, 1.0),
        (["The CAT sat"], [["the cat sat"]], 2, 1.0),
        # 2 of 3 words and 1 of 2 pairs are in the reference.
        (["the cat ran"], [["the cat sat"]], 2, (2 / 3 * 1 / 2) ** 0.5),
        # Clipped over both references: both pairs are in one of them.
        (["the cat ran"], [["the cat sat", "a cat ran"]], 2, 1.0),
        # One corpus: 3 of 4 words, and not the mean of 1 and 1/2.
        (["a b", "a c"], [["a b"], ["a d"]], 1, 3 / 4),
        # Half as long as the reference: exp(1 - 4/2).
        (["a b"], [["a b c d"]], 1, 0.36787944117144233),
        ([""], [["the cat sat"]], 2, 0.0),
        (["the cat sat"], [[""]], 2, 0.0),
        ([], [], 2, 0.0),
    ],
)
def test_bleu_by_hand(replies, references, order, expected):
    assert bleu(replies, references, order) == pytest.approx(expected, abs=1e-9)


def test_each_reply_needs_as_many_references():
    with pytest.raises(ValueError, match="shorter"):
        bleu(["a", "b"], [["a", "b"], ["c"]], 2)


def test_tokenised_dialogues_are_scored_without_a_word_from_sacrebleu(caplog):
    with caplog.at_level(logging.WARNING):
        assert bleu(["how are you ."] * 200, [["how are you ."]] * 200, 2) == pytest.approx(1.0)
    assert caplog.records == []
