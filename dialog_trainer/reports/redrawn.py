"""Pictures that are renewed while a run goes on: to draw them takes a second, so not each time that there is more to show."""

from __future__ import annotations

import time
from collections.abc import Callable

REDRAW_SECONDS = 30.0


class Redrawn:
    """What `draw` draws: at most once in `REDRAW_SECONDS`, counted from now, and by `finish` whatever was left out
    meanwhile. A run that ends sooner so draws once."""

    def __init__(self, draw: Callable[[], None]):
        self._draw = draw
        self._drawn_at = time.monotonic()
        self._outdated = False

    def renew(self) -> None:
        """There is more to show."""
        self._outdated = True
        if time.monotonic() - self._drawn_at >= REDRAW_SECONDS:
            self.finish()

    def finish(self) -> None:
        if self._outdated:
            self._draw()
            self._drawn_at = time.monotonic()
            self._outdated = False
