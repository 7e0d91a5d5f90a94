"""The learning curves of a run, from its rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dialog_trainer.reporting.plotting import BLUE, GREY, curve, mark_switch, one_axes, panels, save
from dialog_trainer.tracking.jsonl import read_newest_rows


def draw_curves(folder: Path, metrics: Path, *, common: Sequence[str], names: Sequence[str], switch: int) -> None:
    """`loss.png`, `lr.png` ... of the quantities in `common`, and `scores.png` of the scores in `names`."""
    train, validation = read_newest_rows(metrics, "train"), read_newest_rows(metrics, "validation")
    losses = [name for name in ("train_loss", "validation_loss") if name in common]
    if losses:
        figure, axes = one_axes("Loss", "updates")
        for name, rows, colour in (("train_loss", train, GREY), ("validation_loss", validation, BLUE)):
            if name in losses:
                curve(axes, rows, name, colour)
        axes.set_ylabel("nats a token")
        mark_switch(axes, switch, train)
        axes.legend(loc="lower left")
        save(figure, folder / "loss.png")
    for name in common:
        if name not in losses:
            figure, axes = one_axes(name, "updates")
            curve(axes, train, name, BLUE)
            mark_switch(axes, switch, train)
            save(figure, folder / f"{name}.png")
    if names:
        figure, stack = panels("Scores on the validation dialogues", "updates", [2.1] * len(names))
        for axes, name in zip(stack, names, strict=True):
            curve(axes, validation, name, BLUE)
            axes.set_ylabel(name)
        save(figure, folder / "scores.png")


REDRAW_SECONDS = 30.0


class ThrottledFigure:
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
