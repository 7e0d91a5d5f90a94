"""The metric registry: names, sums over replies, and metrics of a user's own."""

import doctest
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.replies import PAIRS, replies_of, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.errors import ConfigError
from dialog_trainer.metrics import bleu, chrf, diversity, nist, ratios, registry
from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.metrics.registry import (
    LOWER_IS_BETTER,
    ORIGINAL_SCORE_NAMES,
    SCORE_NAMES,
    SCORES,
    WITHOUT_DIRECTION,
    Score,
    compute_statistics,
    describe_scores,
    load_extra_metrics,
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
TEXT_SCORES = [name for name in SCORES if name not in PERPLEXITIES]
NO_SUMS = ["distinct1", "distinct2", "entropy4"]
SUMS = [name for name in TEXT_SCORES if name not in NO_SUMS]


def test_names_and_directions():
    assert SCORE_NAMES == tuple(SCORES) == (*PERPLEXITIES, *TEXT_SCORES)
    assert all(score.name == name for name, score in SCORES.items())
    assert set(LOWER_IS_BETTER) == {"repetition", *PERPLEXITIES}
    assert set(WITHOUT_DIRECTION) == {"length", "length_ratio"}
    assert set(ORIGINAL_SCORE_NAMES) == {*PERPLEXITIES, "bleu2", "bleu4", "nist2", "nist4"}
    assert [name for name, score in SCORES.items() if score.from_loss] == list(PERPLEXITIES)
    assert [name for name, score in SCORES.items() if score.score_corpus] == NO_SUMS


def test_registry_imports_no_heavy_library():
    """The command line lists the scores in `--help`."""
    code = (
        "import sys, dialog_trainer.metrics.registry; print({'torch', 'numpy', 'sacrebleu', 'nltk'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def value(module, *arguments) -> float:
    return module.compute_score(module.collect_statistics(REPLIES).sum(0), *arguments)


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
        ("distinct1", diversity.compute_distinct(REPLIES, 1)),
        ("distinct2", diversity.compute_distinct(REPLIES, 2)),
        ("entropy4", diversity.compute_entropy(REPLIES, 4)),
    ],
)
def test_each_name_has_its_function_and_order(name, expected):
    every = score_replies(SCORES, REPLIES)
    assert score_replies([name], REPLIES) == {name: pytest.approx(expected, abs=1e-12)}
    # No other score of these replies has the same value.
    assert [other for other, found in every.items() if found == pytest.approx(expected, abs=1e-9)] == [name]


def test_scores_keep_the_order_of_names_without_perplexities():
    asked = ["nist2", "ppl", "bleu4", "distinct1", "ppl_word", "bleu2"]
    assert list(score_replies(asked, REPLIES)) == ["nist2", "bleu4", "distinct1", "bleu2"]
    assert list(compute_statistics(asked, REPLIES)) == ["nist2", "bleu4", "bleu2"]


def test_scores_of_parts_are_those_of_their_replies():
    parts = {"all": range(3), "some": [2, 0], "none": []}
    found = score_parts(SCORES, REPLIES, parts)
    assert {title: list(of) for title, of in found.items()} == dict.fromkeys(parts, TEXT_SCORES)
    assert found["all"] == pytest.approx(score_replies(SCORES, REPLIES))
    some = score_replies(SCORES, [REPLIES[2], REPLIES[0]])
    for name in TEXT_SCORES:
        if not name.startswith("nist"):  # its information is that of all replies
            assert found["some"][name] == pytest.approx(some[name])
    assert found["none"] == dict.fromkeys(TEXT_SCORES, 0.0)


def test_unknown_name_is_an_error():
    for function in (
        lambda names: score_replies(names, REPLIES),
        lambda names: compute_statistics(names, REPLIES),
        describe_scores,
    ):
        with pytest.raises(KeyError, match="blue2"):
            function(["bleu2", "blue2"])


def test_shared_statistics_are_computed_once():
    calls = []

    def counted(replies):
        calls.append(len(replies))
        return ratios.count_words(replies)

    own = {name: Score(name, "", counted, ratios.divide) for name in ("one", "two")}
    rows = compute_statistics(["one", "bleu1", "two"], REPLIES, {**SCORES, **own})
    assert calls == [3]
    assert rows["one"] is rows["two"]
    assert len({id(SCORES[f"bleu{n}"].statistics) for n in range(1, 5)}) == 1
    assert len({id(SCORES[f"nist{n}"].statistics) for n in range(1, 6)}) == 1


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.data())
def test_statistics_add_over_any_partition_and_order(pairs, data):
    replies = replies_of(*zip(*pairs, strict=True))
    parts = data.draw(st.lists(st.integers(0, 2), min_size=len(replies), max_size=len(replies)))
    for name, rows in compute_statistics(SUMS, replies).items():
        assert rows.dtype == np.float64
        assert len(rows) == len(replies)
        sums = [rows[np.equal(parts, part)].sum(0) for part in range(3)]
        assert SCORES[name].value(sum(sums)) == pytest.approx(score_replies([name], replies)[name], abs=1e-9)
        backwards = score_replies([name], replies[::-1])[name]
        assert SCORES[name].value(sum(sums)) == pytest.approx(backwards, abs=1e-9)


@pytest.mark.parametrize("name", TEXT_SCORES)
@pytest.mark.parametrize(
    "replies",
    [[], [reply("", "a b", ended=False)], [reply("", "", "", ended=False)], [reply(" \n", ended=False)]],
)
def test_no_replies_and_empty_replies_score_0(name, replies):
    assert score_replies([name], replies) == {name: 0.0}


@pytest.mark.parametrize("name", TEXT_SCORES)
def test_replies_of_one_word_have_every_score(name):
    assert 0 <= score_replies([name], [reply("yes", "yes sir", "no"), reply("no", "no")])[name] < 10


def test_signature_names_each_rule_once():
    assert describe_scores(["bleu4", "ppl", "nist2", "bleu2", "chrf"]) == (
        "bleu[case:lc|tok:13a|smooth:exp] nist[case:lc|tok:13a|rule:mteval] chrf[case:mixed|eff:yes|nc:6|nw:0|space:no]"
    )
    assert describe_scores(["ppl_byte"]) == ""


def test_documented_example_of_an_own_metric():
    [example] = [found for found in doctest.DocTestFinder().find(registry) if found.name == registry.__name__]
    assert doctest.DocTestRunner().run(example).failed == 0
    assert len(example.examples) > 5


OWN_METRICS = """
from dialog_trainer.metrics.ratios import count_words, divide
from dialog_trainer.metrics.registry import Score

words = Score("words", "words[own]", count_words, divide, better="neither")
count = Score("count", "count[own]", score_corpus=len)
bleu2 = Score("bleu2", "", count_words, divide)
other = Score("another", "", count_words, divide)
text = "words"
"""


@pytest.fixture
def own_metrics(tmp_path, monkeypatch):
    (tmp_path / "own_metrics.py").write_text(OWN_METRICS)
    (tmp_path / "own_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("own_metrics", "own_broken"):
        sys.modules.pop(name, None)


def test_own_metrics_are_added_to_a_copy(own_metrics):
    scores = load_extra_metrics(["own_metrics.words", "own_metrics.count"])
    assert list(scores) == [*SCORES, "words", "count"]
    assert "words" not in SCORES
    assert score_replies(["words", "bleu2", "count"], REPLIES, scores) == {
        "words": pytest.approx(14 / 3), "bleu2": score_replies(["bleu2"], REPLIES)["bleu2"], "count": 3,
    }  # fmt: skip
    assert describe_scores(["words", "ppl", "count"], scores) == "words[own] count[own]"
    assert load_extra_metrics([]) == SCORES


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("own_metrics.none", r"cannot be imported \(AttributeError: .*pass a dotted name as my_package.question_rate"),
        ("own_missing.words", r"cannot be imported \(ModuleNotFoundError: No module named 'own_missing'\)"),
        ("own_broken.words", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("words", r"cannot be imported \(ValueError: "),
        ("own_metrics.text", r"is not a Score but 'words'; name a dialog_trainer.metrics.registry.Score"),
        ("own_metrics.bleu2", r"there is a score bleu2 already; choose another name"),
        ("own_metrics.other", r"its record has the name another; give both the same name"),
    ],
)
def test_wrong_own_metric_is_named_with_the_remedy(own_metrics, name, error):
    with pytest.raises(ConfigError, match=rf"metrics\.extra={re.escape(name)}: {error}"):
        load_extra_metrics([name])


def test_all_wrong_own_metrics_are_reported_at_once(own_metrics):
    with pytest.raises(ConfigError) as error:
        load_extra_metrics(["own_metrics.words", "own_metrics.words", "own_metrics.text", "nothing.here"])
    assert len(error.value.errors) == 3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"statistics": ratios.count_words},
        {"value": ratios.divide},
        {"statistics": ratios.count_words, "value": ratios.divide, "score_corpus": len},
        {"score_corpus": len, "better": "more"},
    ],
)
def test_incomplete_score_is_an_error(options):
    with pytest.raises(ValueError, match="score own: "):
        Score("own", "", **options)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"bleu2": 1}, 0.5),
        ({"bleu2": 0.1, "bleu4": 0.6, "nist2": 0.1, "nist4": 0.2}, 0.05 + 0.15 + 0.2 + 0.6),
        ({"bleu2": 1, "ppl": -0.01}, 0.4),
    ],
)
def test_best_score_is_the_weighted_sum(weights, expected):
    made = {"bleu2": 0.5, "bleu4": 0.25, "nist2": 2.0, "nist4": 3.0, "ppl": 10.0}
    assert weighted_score(made, weights) == pytest.approx(expected)


def test_weight_for_a_missing_score_is_an_error():
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
