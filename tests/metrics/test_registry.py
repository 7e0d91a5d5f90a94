"""The scores by name, as sums over replies."""

import doctest

import numpy as np
import pytest
from helpers.replies import PAIRS, replies_of, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.config.options import LOWER_IS_BETTER, NO_BETTER, SCORE_NAMES
from dialog_trainer.metrics import bleu, chrf, diversity, nist, ratios, registry
from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.metrics.registry import (
    SCORES,
    Score,
    compute_statistics,
    describe_scores,
    score_parts,
    score_replies,
    weighted_score,
)
from dialog_trainer.metrics.tokenize import split_words

# "mat" and "rug" are both likely after the same four words, so that every order of NIST finds information.
REPLIES = [
    reply("the cat sat on the mat", "the cat sat on the mat", history=("The cat sat on the mat",)),
    reply("my cat sat on the rug .", "a cat sat on the rug .", ended=False),
    reply("yes", "yes yes yes"),
]
SUMS = [name for name, score in SCORES.items() if score.statistics]


def test_the_options_know_exactly_the_scores_there_are():
    assert sorted(SCORE_NAMES) == sorted([*SCORES, *PERPLEXITIES])


def value(module, *arguments) -> float:
    return module.value(module.statistics(REPLIES).sum(0), *arguments)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((f"bleu{n}", value(bleu, n)) for n in range(1, 5)),
        *((f"nist{n}", value(nist, n)) for n in range(1, 6)),
        ("chrf", value(chrf)),
        ("length", (6 + 7 + 1) / 3),
        ("length_ratio", 14 / 16),
        ("repetition", 1 / 3),
        ("turn_end_rate", 2 / 3),
        ("distinct1", diversity.distinct(REPLIES, 1)),
        ("distinct2", diversity.distinct(REPLIES, 2)),
        ("entropy4", diversity.entropy(REPLIES, 4)),
    ],
)
def test_a_name_means_its_rule_and_order(name, expected):
    every = score_replies(SCORES, REPLIES)
    assert score_replies([name], REPLIES) == {name: pytest.approx(expected, abs=1e-12)}
    assert SCORES[name].name == name
    # The material tells the scores apart.
    assert [other for other, found in every.items() if found == pytest.approx(expected, abs=1e-9)] == [name]


def test_scores_come_in_the_asked_order_without_perplexities():
    asked = ["nist2", "ppl", "bleu4", "distinct1", "ppl_word", "bleu2"]
    assert list(score_replies(asked, REPLIES)) == ["nist2", "bleu4", "distinct1", "bleu2"]
    assert list(compute_statistics(asked, REPLIES)) == ["nist2", "bleu4", "bleu2"]


def test_the_scores_of_parts_are_those_of_their_replies():
    parts = {"all": range(3), "some": [2, 0], "none": []}
    found = score_parts([*SCORES, *PERPLEXITIES], REPLIES, parts)
    assert {title: list(of) for title, of in found.items()} == {title: list(SCORES) for title in parts}
    assert found["all"] == pytest.approx(score_replies(SCORES, REPLIES))
    some = score_replies(SCORES, [REPLIES[2], REPLIES[0]])
    for name in SCORES:
        if not name.startswith("nist"):  # by the information of all replies, not of the part's
            assert found["some"][name] == pytest.approx(some[name])
    assert found["none"] == dict.fromkeys(SCORES, 0.0)


def test_a_name_that_no_score_has_is_an_error():
    for function in (
        lambda names: score_replies(names, REPLIES),
        lambda names: compute_statistics(names, REPLIES),
        describe_scores,
    ):
        with pytest.raises(KeyError, match="blue2"):
            function(["bleu2", "blue2"])


def test_what_scores_share_is_counted_once(monkeypatch):
    calls = []

    def counted(replies):
        calls.append(len(replies))
        return ratios.length(replies)

    for name in ("one", "two"):
        monkeypatch.setitem(SCORES, name, Score(name, "", counted, ratios.ratio))
    rows = compute_statistics(["one", "bleu1", "two"], REPLIES)
    assert calls == [3]
    assert rows["one"] is rows["two"]
    assert len({id(SCORES[f"bleu{n}"].statistics) for n in range(1, 5)}) == 1
    assert len({id(SCORES[f"nist{n}"].statistics) for n in range(1, 6)}) == 1


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.data())
def test_statistics_add_over_any_partition_and_order_of_the_dialogues(pairs, data):
    replies = replies_of(*zip(*pairs, strict=True))
    parts = data.draw(st.lists(st.integers(0, 2), min_size=len(replies), max_size=len(replies)))
    for name, rows in compute_statistics(SUMS, replies).items():
        assert rows.dtype == np.float64
        assert len(rows) == len(replies)
        sums = [rows[np.equal(parts, part)].sum(0) for part in range(3)]
        assert SCORES[name].value(sum(sums)) == pytest.approx(score_replies([name], replies)[name], abs=1e-9)
        backwards = score_replies([name], replies[::-1])[name]
        assert SCORES[name].value(sum(sums)) == pytest.approx(backwards, abs=1e-9)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    "replies",
    [[], [reply("", "a b", ended=False)], [reply("", "", "", ended=False)], [reply(" \n", ended=False)]],
)
def test_of_no_replies_and_of_empty_ones_a_score_is_0(name, replies):
    assert score_replies([name], replies) == {name: 0.0}


@pytest.mark.parametrize("name", SCORES)
def test_replies_of_one_word_have_every_score(name):
    assert 0 <= score_replies([name], [reply("yes", "yes sir", "no"), reply("no", "no")])[name] < 10


def test_a_score_is_either_a_value_of_sums_or_of_the_whole():
    for score in SCORES.values():
        assert (score.statistics is None) == (score.value is None) == (score.whole is not None)
    assert [name for name in SCORES if name not in SUMS] == ["distinct1", "distinct2", "entropy4"]


def test_which_way_is_better():
    assert set(LOWER_IS_BETTER) == {"repetition", *PERPLEXITIES}
    assert set(NO_BETTER) == {"length", "length_ratio"}


def test_the_signature_names_each_rule_once():
    assert describe_scores(["bleu4", "ppl", "nist2", "bleu2", "chrf"]) == (
        "bleu[case:lc|tok:13a|smooth:exp] nist[case:lc|tok:13a|rule:mteval] chrf[case:mixed|eff:yes|nc:6|nw:0|space:no]"
    )
    assert describe_scores(["ppl_byte"]) == ""


def test_the_documented_way_to_add_a_score_works(monkeypatch):
    monkeypatch.setattr(registry, "SCORES", dict(SCORES))
    [example] = [found for found in doctest.DocTestFinder().find(registry) if found.name == registry.__name__]
    assert doctest.DocTestRunner().run(example).failed == 0
    assert len(example.examples) > 5
    assert registry.__doc__[registry.__doc__.index(">>>") :].count("\n") < 30


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"bleu2": 1}, 0.5),
        ({"bleu2": 0.1, "bleu4": 0.6, "nist2": 0.1, "nist4": 0.2}, 0.05 + 0.15 + 0.2 + 0.6),
        ({"bleu2": 1, "ppl": -0.01}, 0.4),
    ],
)
def test_the_best_score_is_the_weighted_sum(weights, expected):
    made = {"bleu2": 0.5, "bleu4": 0.25, "nist2": 2.0, "nist4": 3.0, "ppl": 10.0}
    assert weighted_score(made, weights) == pytest.approx(expected)


def test_a_weight_for_a_score_that_was_not_made_is_an_error():
    with pytest.raises(KeyError):
        weighted_score({"bleu2": 0.5}, {"bleu4": 1})


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
    assert split_words(text) == expected
