"""Figure of the validation scores by depth of the turn."""

import pytest

from dialog_trainer.reporting.depth_curves import plot_by_depth
from dialog_trainer.reporting.plotting import FigureStyle

SCORED = {
    "by_depth": [
        {"depth": "1", "replies": 1200, "scores": {"bleu2": 0.1, "distinct1": 0.3}},
        {"depth": ">10", "replies": 1, "scores": {"bleu2": 0.0, "distinct1": 1.0}},
    ]
}


def test_a_panel_for_each_score_of_replies():
    figure = plot_by_depth(FigureStyle("run7"), SCORED, ["ppl", "bleu2", "distinct1"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["bleu2", "distinct1"]
    for axes, values in zip(figure.axes, ([0.1, 0.0], [0.3, 1.0]), strict=True):
        assert axes.lines[0].get_ydata().tolist() == values
        assert axes.get_ylim() == pytest.approx((0, max(values) * 1.3))
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["1\nn = 1,200", ">10\nn = 1"]


def test_scores_that_are_all_0_and_perplexities_alone_can_be_drawn():
    nothing = [{"depth": "1", "replies": 2, "scores": {"bleu2": 0.0}}]
    assert plot_by_depth(FigureStyle(), {"by_depth": nothing}, ["bleu2"]).axes[0].get_ylim()[1] > 0
    (axes,) = plot_by_depth(FigureStyle(), {"by_depth": [{"depth": "1", "replies": 2, "scores": {}}]}, ["ppl"]).axes
    assert axes.get_ylabel() == ""
