"""Which arms are on a curve over a swept number."""

import pytest

from dialog_trainer.reporting.report.arms import Arm, Design
from dialog_trainer.reporting.report.curves import Curves, Line, find_curves


@pytest.mark.parametrize(
    ("keys", "values", "curves"),
    [
        (("x",), [(0.0,), (0.25,), (1,)], Curves("x", (Line("", (0, 1, 2), (0.0, 0.25, 1.0)),))),
        (("mode",), [("token",), ("turn",)], None),
        (("x",), [(0.0,)], None),
        (("x",), [("auto",), (0.1,)], None),
        (
            ("x", "a.lr"), [(0, 1e-3), (0, 2e-3), (0, 4e-3), (1, 1e-3), (1, 2e-3), (1, 4e-3)],
            Curves("a.lr", (Line("0", (0, 1, 2), (1e-3, 2e-3, 4e-3)), Line("1", (3, 4, 5), (1e-3, 2e-3, 4e-3)))),
        ),
        (
            ("x", "schedule"), [(0, "step"), (1, "step"), (0.5, "linear")],
            Curves("x", (Line("step", (0, 1), (0.0, 1.0)), Line("linear", (2,), (0.5,)))),
        ),
        # Settings that belong together: no two arms differ in one number alone.
        (("lr", "batch"), [(1e-3, 16), (3e-3, 64)], None),
    ],
)  # fmt: skip
def test_arms_that_differ_in_a_number_alone_are_on_a_line(keys, values, curves):
    arms = tuple(Arm(str(value), value, {}) for value in values)
    assert find_curves(Design(keys, arms, ())) == curves
