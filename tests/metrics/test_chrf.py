"""chrF from summed statistics, against sacrebleu's corpus score."""

import pytest
import sacrebleu
from helpers.replies import PAIRS, replies_of
from hypothesis import given, settings

from dialog_trainer.metrics import chrf


def chrf_of(texts, references) -> float:
    return chrf.compute_score(chrf.collect_statistics(replies_of(texts, references)).sum(0))


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_chrf_equals_sacrebleu(pairs):
    texts, references = [text for text, _ in pairs], [those for _, those in pairs]
    columns = max(map(len, references))
    streams = [[those[i] if i < len(those) else None for those in references] for i in range(columns)]
    assert chrf_of(texts, references) == pytest.approx(
        sacrebleu.CHRF().corpus_score(texts, streams).score / 100, abs=1e-9
    )


@pytest.mark.parametrize(
    ("texts", "references", "expected"),
    [
        (["a cat"], [["a cat"]], 1.0),
        # Spaces do not count, case does.
        (["ac at"], [["a cat"]], 1.0),
        (["A"], [["a"]], 0.0),
        # 1 of 2 letters, no pair: precision and recall 1/4 over two orders.
        (["ab"], [["ac"]], 1 / 4),
        # Precision (1/2 + 0/1) / 2, but recall 1 of 1 and no pair to recall: only order 1 has both sides.
        (["ab"], [["a"]], 5 * 1 / 2 / (4 * 1 / 2 + 1)),
        # The better reference.
        (["ab"], [["x", "ab"]], 1.0),
        ([""], [["a"]], 0.0),
        (["a"], [[""]], 0.0),
        ([], [], 0.0),
    ],
)
def test_chrf_by_hand(texts, references, expected):
    assert chrf_of(texts, references) == pytest.approx(expected, abs=1e-9)


def test_statistics_of_a_reply():
    [row] = chrf.collect_statistics(replies_of(["aab"], [["ab"]]))
    assert row.tolist() == [3, 2, 2, 2, 1, 1, 0, 0, 0] + [0] * 9
    assert chrf.collect_statistics([]).shape == (0, 18)
