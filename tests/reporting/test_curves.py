"""How often figures are redrawn, and the one of scores by depth."""

import time

import pytest

from dialog_trainer.reporting.curves import REDRAW_SECONDS, ThrottledFigure, plot_by_depth
from dialog_trainer.reporting.plotting import FigureStyle


def test_a_figure_is_redrawn_at_most_once_in_an_interval_and_at_the_end(monkeypatch):
    now, drawn = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    figure = ThrottledFigure(lambda: drawn.append(now[0]))
    figure.finish()
    assert drawn == []  # there is nothing to show
    for seconds in (0, 1, REDRAW_SECONDS - 2, 1, 1):
        now[0] += seconds
        figure.renew()
    assert drawn == [1000 + REDRAW_SECONDS]
    figure.finish()
    assert drawn[1:] == [now[0]]
    figure.finish()
    assert len(drawn) == 2


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
