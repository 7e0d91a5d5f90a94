"""NIST by the rule of mteval: by hand, and against nltk where nltk follows that rule."""

import math

import pytest
from helpers.replies import replies_of
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.nist_score import corpus_nist

from dialog_trainer.metrics import nist as nist_module

# The example of nltk's documentation.
REFERENCES = [
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]
GUIDE = "It is a guide to action which ensures that the military always obeys the commands of the party"
TROOPS = "It is to insure the troops forever hearing the activity guidebook that party direct"
# The brevity penalty of replies half as long as their references.
PENALTY_OF_HALF = math.exp(math.log(0.5) / math.log(1.5) ** 2 * math.log(0.5) ** 2)

WORD = st.sampled_from(["the", "a", "cat", "dog", "sat", "ran", "on", "mat"])


def nist(texts, references, order: int) -> float:
    return nist_module.compute_score(nist_module.collect_statistics(replies_of(texts, references)).sum(0), order)


@pytest.mark.parametrize(("reply", "expected"), [(GUIDE, 5.0379), (TROOPS, 2.1139)])
def test_nist_equals_mteval_on_the_nltk_example(monkeypatch, reply, expected):
    """The published numbers keep upper case, so words are split at spaces only."""
    monkeypatch.setattr(nist_module, "split_words", lambda text, tokenizer: text.split())
    assert nist([reply], [REFERENCES], 5) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("reply", [GUIDE, TROOPS])
def test_case_does_not_count(monkeypatch, reply):
    found = nist([reply.upper()], [REFERENCES], 5)
    monkeypatch.setattr(nist_module, "split_words", lambda text, tokenizer: text.split())
    assert found == nist([reply.lower()], [[text.lower() for text in REFERENCES]], 5)


def test_punctuation_marks_are_words():
    assert nist(["Yes, sir."], [["yes , sir ."]], 2) == nist(["yes , sir ."], [["yes , sir ."]], 2) > 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.lists(WORD, min_size=4, max_size=9).map(" ".join)] * 2), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_nist_equals_nltk_with_one_reference(pairs, order):
    texts, references = [text for text, _ in pairs], [[text] for _, text in pairs]
    expected = corpus_nist([[text.split()] for _, text in pairs], [text.split() for text, _ in pairs], n=order)
    assert nist(texts, references, order) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("replies", "references", "order", "expected"),
    [
        # Information log2(4 / 1) for each of the 4 words; pairs are certain after their first word.
        (["a b c d"], [["a b c d"]], 1, 2.0),
        (["a b c d"], [["a b c d"]], 2, 2.0),
        # `a` is 2 of 4 words: (1 + 1 + 2 + 2) / 4; `b` follows it half the time, and "b a" is certain: (1 + 0 + 1) / 3.
        (["a b a c"], [["a b a c"]], 1, 6 / 4),
        (["a b a c"], [["a b a c"]], 2, 6 / 4 + 2 / 3),
        # Two thirds of the length is half the score.
        (["a b"], [["a b c"]], 1, math.log2(3) / 2),
        # Clipped over the references: each word is in one of them, and 2 of their 4 words are `a`.
        (["a b"], [["a x", "a b"]], 1, (1 + 2) / 2),
        # The largest count in one of them, not the sum: one of the two `a` is matched.
        (["a a"], [["a b", "a c"]], 1, 1 / 2),
        # The reference length is the mean of 2 and 4.
        (["a b"], [["a b", "a b c d"]], 1, math.log2(6 / 2) / 2),
        # No reply has two words: the orders above 1 add nothing.
        (["a", "b"], [["a b"], ["b a"]], 5, 1.0 * PENALTY_OF_HALF),
    ],
)
def test_nist_by_hand(replies, references, order, expected):
    assert nist(replies, references, order) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("replies", "references"),
    [
        ([], []),
        ([""], [["a b"]]),
        (["", ""], [["a"], ["b"]]),
        (["a b"], [[""]]),
        (["a"], [["<skipped>"]]),
        ([""], [[""]]),
    ],
)
@pytest.mark.parametrize("order", [1, 5])
def test_nothing_to_compare_scores_0(replies, references, order):
    assert nist(replies, references, order) == 0.0


def test_an_empty_reply_costs_only_length():
    with_empty = nist(["a b c", ""], [["a b c"], ["d e f"]], 1)
    assert with_empty == pytest.approx(math.log2(6) * PENALTY_OF_HALF)


def test_statistics_of_a_reply():
    # `a` is 3 of 6 words and `b` 1 of them; "a b" is 1 of the 3 pairs that `a` could begin.
    rows = nist_module.collect_statistics(replies_of(["a b b", "z"], [["a b", "a"], ["c a d"]]))
    a, b, pair = math.log2(6 / 3), math.log2(6 / 1), math.log2(3 / 1)
    assert rows[0].tolist() == pytest.approx([1.5, a + b, pair, 0, 0, 0, 3, 2, 1, 0, 0])
    assert rows[1].tolist() == [3, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert nist_module.collect_statistics([]).shape == (0, 11)


def test_information_is_that_of_all_references_of_the_call():
    replies = replies_of(["a", "b"], [["a"], ["b"]])
    rows = nist_module.collect_statistics(replies)
    assert nist_module.compute_score(rows[0], 1) == 1.0
    # Alone its only word would be certain.
    assert nist_module.compute_score(nist_module.collect_statistics(replies[:1])[0], 1) == 0.0
