"""The scores by name."""

import pytest

from dialog_trainer import options
from dialog_trainer.metrics.bleu import bleu
from dialog_trainer.metrics.nist import nist
from dialog_trainer.metrics.scores import SCORES, SIGNATURE, text_scores, weighted
from dialog_trainer.metrics.words import words

# "mat" and "rug" are both likely after the same four words, so that every order of NIST finds information.
REPLIES = ["the cat sat on the mat", "my cat sat on the rug ."]
REFERENCES = [["the cat sat on the mat"], ["a cat sat on the rug ."]]


def test_the_options_know_exactly_the_scores_there_are():
    assert sorted(options.SCORE_NAMES) == sorted([*SCORES, "ppl"])


@pytest.mark.parametrize(
    ("name", "rule", "order"),
    [*((f"bleu{n}", bleu, n) for n in range(1, 5)), *((f"nist{n}", nist, n) for n in range(1, 6))],
)
def test_a_name_means_its_rule_and_order(name, rule, order):
    expected = rule(REPLIES, REFERENCES, order)
    assert text_scores([name], REPLIES, REFERENCES) == {name: expected}
    # The material tells the orders apart.
    assert all(expected != rule(REPLIES, REFERENCES, other) for other in range(1, 5) if other != order)


def test_scores_come_in_the_asked_order_without_what_is_not_made_from_text():
    assert list(text_scores(["nist2", "ppl", "bleu4", "bleu2"], REPLIES, REFERENCES)) == ["nist2", "bleu4", "bleu2"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"bleu2": 1}, 0.5),
        ({"bleu2": 0.1, "bleu4": 0.6, "nist2": 0.1, "nist4": 0.2}, 0.05 + 0.15 + 0.2 + 0.6),
        ({"bleu2": 1, "ppl": -0.01}, 0.4),
    ],
)
def test_the_best_score_is_the_weighted_sum(weights, expected):
    scores = {"bleu2": 0.5, "bleu4": 0.25, "nist2": 2.0, "nist4": 3.0, "ppl": 10.0}
    assert weighted(scores, weights) == pytest.approx(expected)


def test_a_weight_for_a_score_that_was_not_made_is_an_error():
    with pytest.raises(KeyError):
        weighted({"bleu2": 0.5}, {"bleu4": 1})


def test_the_signature_names_both_rules():
    assert SIGNATURE == "bleu[case:lc|tok:13a|smooth:exp] nist[case:lc|tok:13a|rule:mteval]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("$5.50 isn't 5,000", ["$", "5.50", "isn't", "5,000"]),
        ("  two  spaces ", ["two", "spaces"]),
        ("고양이 ÉTÉ", ["고양이", "été"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected
