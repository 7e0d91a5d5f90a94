"""Lengths and shares by hand."""

import numpy as np
import pytest
from helpers.replies import reply

from dialog_trainer.metrics import ratios


@pytest.mark.parametrize(
    ("rule", "replies", "expected"),
    [
        (ratios.length, [reply("Yes, sir."), reply("no")], (4 + 1) / 2),
        (ratios.length, [reply("")], 0.0),
        (ratios.length_ratio, [reply("a b", "a b c d"), reply("a", "a b")], 3 / 6),
        # The mean of two references; a reply without words counts through its reference.
        (ratios.length_ratio, [reply("a b c", "a", "a b c"), reply("", "a")], 3 / 3),
        (ratios.length_ratio, [reply("a", "<skipped>")], 0.0),
        (ratios.repetition, [reply("b", history=("a", "b", "c")), reply("d", history=("a",))], 1 / 2),
        (ratios.repetition, [reply(" Good  day\t. ", history=("Hm", "good DAY ."))], 1.0),
        (ratios.repetition, [reply("good day", history=("good day .", "a good day"))], 0.0),
        (ratios.repetition, [reply("", history=("a",))], 0.0),
        # The gold reply is no earlier turn.
        (ratios.repetition, [reply("b", "b", history=("a",))], 0.0),
        (ratios.turn_end, [reply("a"), reply("b", ended=False), reply("", ended=True)], 2 / 3),
        *((rule, [], 0.0) for rule in (ratios.length, ratios.length_ratio, ratios.repetition, ratios.turn_end)),
    ],
)
def test_by_hand(rule, replies, expected):
    rows = rule(replies)
    assert rows.shape == (len(replies), 2)
    assert rows.dtype == np.float64
    assert ratios.ratio(rows.sum(0)) == pytest.approx(expected)
