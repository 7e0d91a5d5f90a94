"""Ratio scores by hand."""

import numpy as np
import pytest
from helpers.replies import reply

from dialog_trainer.metrics import ratios


@pytest.mark.parametrize(
    ("rule", "replies", "expected"),
    [
        (ratios.count_words, [reply("Yes, sir."), reply("no")], (4 + 1) / 2),
        (ratios.count_words, [reply("")], 0.0),
        (ratios.count_words_and_references, [reply("a b", "a b c d"), reply("a", "a b")], 3 / 6),
        # The mean of two references; an empty reply still adds the words of its reference.
        (ratios.count_words_and_references, [reply("a b c", "a", "a b c"), reply("", "a")], 3 / 3),
        (ratios.count_words_and_references, [reply("a", "<skipped>")], 0.0),
        (ratios.count_repetitions, [reply("b", history=("a", "b", "c")), reply("d", history=("a",))], 1 / 2),
        (ratios.count_repetitions, [reply(" Good  day\t. ", history=("Hm", "good DAY ."))], 1.0),
        (ratios.count_repetitions, [reply("good day", history=("good day .", "a good day"))], 0.0),
        (ratios.count_repetitions, [reply("", history=("a",))], 0.0),
        # The gold reply is no earlier turn.
        (ratios.count_repetitions, [reply("b", "b", history=("a",))], 0.0),
        (ratios.count_turn_ends, [reply("a"), reply("b", ended=False), reply("", ended=True)], 2 / 3),
        *(
            (rule, [], 0.0)
            for rule in (
                ratios.count_words,
                ratios.count_words_and_references,
                ratios.count_repetitions,
                ratios.count_turn_ends,
            )
        ),
    ],
)
def test_by_hand(rule, replies, expected):
    rows = rule(replies)
    assert rows.shape == (len(replies), 2)
    assert rows.dtype == np.float64
    assert ratios.divide(rows.sum(0)) == pytest.approx(expected)
