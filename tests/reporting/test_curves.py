"""Figures are redrawn at most once in an interval, and at the end."""

import time

from dialog_trainer.reporting.curves import REDRAW_SECONDS, ThrottledFigure


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
