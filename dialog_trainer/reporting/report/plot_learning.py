"""Draws the losses on the validation split over the training, of all runs of a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from dialog_trainer.reporting.plotting import Theme, add_legend
from dialog_trainer.reporting.report.arms import Arm, Design
from dialog_trainer.reporting.report.plot_arms import LINES, make_grid

PANEL_INCHES = 2.6
_NAMES = ("validation_loss", "assistant_nll", "user_nll")


def plot_learning(theme: Theme, design: Design) -> Figure:
    """A panel for each loss: a thin line for each run, a bold one for the mean of each arm."""
    names = [name for name in _NAMES if any(_curves(arm, name) for arm in design.arms)]
    figure, panels = make_grid(theme, len(names), 1, PANEL_INCHES)
    for axes, name in zip(panels, names, strict=True):
        for index, (arm, color) in enumerate(zip(design.arms, theme.shades(len(design.arms)), strict=True)):
            line, curves = LINES[index % len(LINES)], _curves(arm, name)
            for steps, values in curves:
                axes.plot(steps, values, color=color, lw=0.6, alpha=0.5, ls=line)
            steps, means = _mean_curve(curves)
            axes.plot(steps, means, color=color, lw=1.8, ls=line, label=arm.label)
        axes.set_ylabel(f"{name}\n(nats per token)", fontsize=8)
    panels[-1].set_xlabel("step", fontsize=8)
    if len(design.arms) > 1:
        add_legend(panels[0], theme, ", ".join(design.keys))
    return figure


def _curves(arm: Arm, name: str) -> list[tuple[list[int], list[float]]]:
    """Steps and values of each run of an arm that has any."""
    points = [
        [(row["step"], row[name]) for row in run.rows.validations if row.get(name) is not None]
        for run in arm.runs.values()
    ]
    return [([step for step, _ in one], [value for _, value in one]) for one in points if one]


def _mean_curve(curves: Sequence[tuple[list[int], list[float]]]) -> tuple[list[int], list[float]]:
    """The mean over runs at the steps that all of them have."""
    steps = sorted(set.intersection(*(set(steps) for steps, _ in curves))) if curves else []
    by_step = [dict(zip(*curve, strict=True)) for curve in curves]
    return steps, [float(np.mean([one[step] for one in by_step])) for step in steps]
