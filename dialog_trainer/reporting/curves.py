"""Learning curves of a run, from its rows of metrics.jsonl, and the scores of a validation by depth of the turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.reporting.plotting import (
    FigureStyle,
    Row,
    Theme,
    finish_panels,
    headroom,
    make_panels,
    mark_switch,
    plot_rows,
    span_of_steps,
)
from dialog_trainer.tracking.jsonl import read_newest_rows

# Drawing all figures of a run takes two seconds.
REDRAW_SECONDS = 120.0
NATS = "loss (nats per token)"
# Axis labels of `metrics.common`, with their units.
LABELS = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "user_weight": "loss weight of user turns",
    "assistant_weight": "loss weight of assistant turns",
}


def plot_curves(
    style: FigureStyle, metrics: Path, *, common: Sequence[str], scores: Mapping[str, str], switch: int
) -> dict[str, Figure]:
    """Figures by file name: `loss`, one for each other quantity in `common`, and `scores`.

    `scores` maps each score to its direction: "higher", "lower" or "neither". `switch`: the step from which the mask is
    final.
    """
    train, validation = read_newest_rows(metrics, "train"), read_newest_rows(metrics, "validation")
    losses = [name for name in ("train_loss", "validation_loss") if name in common]
    figures = {}
    if losses:
        figures["loss"] = _plot_losses(style, losses, train, validation, switch)
    for name in (name for name in common if name not in losses):
        label = LABELS.get(name, name)
        figure, (axes,) = make_panels(style, label[0].upper() + label[1:], "step", [3.6])
        plot_rows(axes, train, name, color=style.theme.accent)
        axes.set_ylabel(label)
        mark_switch(axes, style.theme, switch, span_of_steps(train))
        finish_panels([axes], style.theme)
        figures[name] = figure
    if scores:
        figures["scores"] = _plot_scores(style, scores, validation, switch)
    return figures


def plot_by_depth(style: FigureStyle, scored: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """One panel per score over the depth of the turn."""
    bins = scored["by_depth"]
    names = [name for name in names if name not in PERPLEXITIES]
    xlabel = "depth (turns before the reply), with the number n of replies"
    figure, panels = make_panels(style, "Scores by depth of the turn", xlabel, [2.0] * max(1, len(names)))
    labels = [f"{bin_['depth']}\nn = {bin_['replies']:,}" for bin_ in bins]
    for axes, name in zip(panels, names, strict=False):
        values = [bin_["scores"][name] for bin_ in bins]
        axes.plot(range(len(bins)), values, color=style.theme.accent, marker="o", ms=4, lw=1.5)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0, top=headroom(values))
        axes.set_xticks(range(len(bins)), labels)
    return figure


def _plot_losses(
    style: FigureStyle, names: Sequence[str], train: Sequence[Row], validation: Sequence[Row], switch: int
) -> Figure:
    theme = style.theme
    figure, (axes,) = make_panels(style, "Loss", "step", [3.6])
    for name, rows, color in (("train_loss", train, theme.thin), ("validation_loss", validation, theme.accent)):
        if name in names:
            plot_rows(axes, rows, name, color=color, lw=0.9 if name == "train_loss" else 1.8)
    axes.set_ylabel(NATS)
    mark_switch(axes, theme, switch, span_of_steps(train, validation))
    finish_panels([axes], theme)
    return figure


def _plot_scores(style: FigureStyle, scores: Mapping[str, str], rows: Sequence[Row], switch: int) -> Figure:
    theme = style.theme
    figure, panels = make_panels(style, "Scores on the validation split", "step", [2.2] * len(scores))
    for axes, (name, better) in zip(panels, scores.items(), strict=True):
        plot_rows(axes, rows, name, color=theme.accent)
        values = {row[name] for row in rows if row.get(name) is not None}
        if len(values) <= 1:  # matplotlib would invent a scale around one value
            axes.set_ylim(0, headroom([*values]) if any(values) else 1)
        _shade_interval(axes, theme, rows, name)
        _mark_best(axes, theme, rows, name, better)
        axes.set_ylabel(name if better == "neither" else f"{name}\n({better} is better)")
        mark_switch(axes, theme, switch, span_of_steps(rows))
    finish_panels(panels, theme)
    return figure


def _mark_best(axes: Axes, theme: Theme, rows: Sequence[Row], name: str, better: str) -> None:
    """A ring around the best value, and those equal to it; a score without a direction has none."""
    points = [(row[name], row["step"]) for row in rows if row.get(name) is not None]
    if better == "neither" or len(points) < 2:
        return
    value = (max if better == "higher" else min)(point[0] for point in points)
    steps = [step for one, step in points if one == value]
    where = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps):,} equal ones"
    axes.scatter(steps, [value] * len(steps), s=70, facecolors="none", edgecolors=theme.ink, lw=1.6, zorder=3,
                 label=f"best {value:,.4g} ({where})")  # fmt: skip


def _shade_interval(axes: Axes, theme: Theme, rows: Sequence[Row], name: str) -> None:
    """The confidence interval, where the rows have its ends as `<name>_low` and `<name>_high`."""
    low, high = f"{name}_low", f"{name}_high"
    found = [row for row in rows if row.get(low) is not None and row.get(high) is not None]
    if found:
        steps = [row["step"] for row in found]
        axes.fill_between(steps, [row[low] for row in found], [row[high] for row in found], color=theme.accent,
                          alpha=0.2, lw=0, label="95 % interval")  # fmt: skip


class ThrottledFigure:
    """Calls `draw` at most once in `REDRAW_SECONDS`, counted from its creation, and in `finish` if a call is due.

    A run that ends sooner draws once.
    """

    def __init__(self, draw: Callable[[], None]):
        self._draw = draw
        self._drawn_at = time.monotonic()
        self._outdated = False

    def renew(self) -> None:
        """Notes that there is more to show."""
        self._outdated = True
        if time.monotonic() - self._drawn_at >= REDRAW_SECONDS:
            self.finish()

    def finish(self) -> None:
        if self._outdated:
            self._draw()
            self._drawn_at = time.monotonic()
            self._outdated = False
