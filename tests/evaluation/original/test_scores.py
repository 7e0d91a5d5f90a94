"""The original program's scores: its own figures, nltk where nltk has an answer, and the rule where it has none."""

import json
import warnings

import pytest
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.nist_score import corpus_nist

from dialog_trainer.evaluation.original.scores import original_scores

NAMES = ["bleu2", "bleu4", "nist2", "nist4"]
# Enough words in common for every order.
ROWS = ["the cat sat on the mat", "a dog ran", "the cat ran to the dog on the mat", "my dog sat on a mat ."]
GOLD = ["the cat sat on a mat", "a dog sat", "the cat ran to a dog on the mat", "my cat sat on a mat ."]


def scored(predictions, targets, **options) -> dict[str, float]:
    return original_scores(predictions, targets, str.split, **{"batch_size": 60} | options)


def by_nltk(predictions, targets) -> dict[str, float]:
    said, gold = [text.split() for text in predictions], [[text.split()] for text in targets]
    return {
        "bleu2": corpus_bleu(gold, said, weights=(0.5, 0.5)),
        "bleu4": corpus_bleu(gold, said, weights=(0.25, 0.25, 0.25, 0.25)),
        "nist2": corpus_nist(gold, said, n=2),
        "nist4": corpus_nist(gold, said, n=4),
    }


def test_scores_equal_the_original_program(real_data, gpt2_tokenizer):
    golden = json.loads((real_data.parent / "golden" / "original_scores.json").read_text(encoding="utf-8"))
    found = original_scores(golden["predictions"], golden["targets"], gpt2_tokenizer.hf_tokenizer.tokenize, 60)
    assert found == pytest.approx(golden["scores"], abs=1e-9)


def test_one_batch_is_nltks_with_case():
    assert scored(ROWS, GOLD) == pytest.approx(by_nltk(ROWS, GOLD), abs=1e-12)
    upper = [text.upper() for text in GOLD]
    assert scored(ROWS, upper)["bleu2"] < 0.2 < scored(ROWS, GOLD)["bleu2"]


def test_batches_are_averaged_by_their_rows():
    whole, last = by_nltk(ROWS[:3], GOLD[:3]), by_nltk(ROWS[3:], GOLD[3:])
    expected = {name: (3 * whole[name] + last[name]) / 4 for name in NAMES}
    assert scored(ROWS, GOLD, batch_size=3) == pytest.approx(expected, abs=1e-12)
    assert scored(ROWS, GOLD, batch_size=3) != pytest.approx(scored(ROWS, GOLD), abs=1e-3)


def test_a_batch_has_60_rows():
    rows, gold = ROWS * 31, GOLD * 31
    assert scored(rows, gold) == scored(rows, gold, batch_size=60) != scored(rows, gold, batch_size=61)


def test_an_order_without_ngrams_adds_0_to_nist():
    with pytest.raises(ZeroDivisionError):
        corpus_nist([[["a", "b"]], [["c", "d"]]], [["a", "b"], ["c"]], n=4)
    found = scored(["a b", "c"], ["a b", "c d"])
    assert (
        found["nist4"]
        == found["nist2"]
        == pytest.approx(corpus_nist([[["a", "b"]], [["c", "d"]]], [["a", "b"], ["c"]], n=2))
    )
    assert found["nist2"] > 0


@pytest.mark.parametrize(("predictions", "targets"), [([], []), ([""], ["a b"]), (["a b"], [""]), (["", ""], ["", ""])])
def test_nothing_to_compare_scores_0(predictions, targets):
    assert scored(predictions, targets) == dict.fromkeys(NAMES, 0.0)


def test_an_order_without_a_match_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scored(["a b"], ["b a"])
    assert 0 < found["bleu2"] < 1e-100
