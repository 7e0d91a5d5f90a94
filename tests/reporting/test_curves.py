"""Pictures are renewed now and then, and at the end."""

import time

from dialog_trainer.reporting.curves import REDRAW_SECONDS, ThrottledFigure


def test_a_picture_is_renewed_at_most_once_in_a_while_and_at_the_end(monkeypatch):
    now, drawn = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    picture = ThrottledFigure(lambda: drawn.append(now[0]))
    picture.finish()
    assert drawn == []  # there is nothing to show
    for seconds in (0, 1, REDRAW_SECONDS - 2, 1, 1):
        now[0] += seconds
        picture.renew()
    assert drawn == [1000 + REDRAW_SECONDS]
    picture.finish()
    assert drawn[1:] == [now[0]]
    picture.finish()
    assert len(drawn) == 2
