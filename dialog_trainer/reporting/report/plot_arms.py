"""Draws the arms of a report: curves over a swept number, or a row for each arm."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from dialog_trainer.reporting.plotting import WIDTH_INCHES, Theme, add_legend, style_axes
from dialog_trainer.reporting.report.arms import Design
from dialog_trainer.reporting.report.comparison import ArmResult, Comparison, Quantity
from dialog_trainer.reporting.report.curves import Curves, Line, find_curves
from dialog_trainer.reporting.report.sentences import unit_of
from dialog_trainer.reporting.report.statistics import Interval

# More numbers than these overlap on an axis.
MAX_TICKS = 12
PANEL_INCHES = 2.3
ROLES_INCHES = 3.2
ROW_INCHES = 0.3
# Room for the axis below the rows.
FOOT_INCHES = 0.9
LABEL_CHARACTERS = 70
LOSS = "loss (nats per token)"
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"


def make_grid(theme: Theme, count: int, columns: int, panel_inches: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels, filled row by row."""
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH_INCHES, rows * panel_inches), layout="constrained", facecolor=theme.background)
    panels: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        style_axes(axes, theme)
        axes.tick_params(labelsize=8)
    return figure, panels[:count]


def plot_means(theme: Theme, comparisons: Sequence[Comparison], design: Design) -> Figure:
    """A panel for each quantity: the mean of each arm with its interval, and its runs as points."""
    curves = find_curves(design)
    columns = min(2, len(comparisons))
    if curves is None:
        figure, panels = make_grid(theme, len(comparisons), columns, FOOT_INCHES + ROW_INCHES * len(design.arms))
        for index, (axes, one) in enumerate(zip(panels, comparisons, strict=True)):
            _label_rows(axes, [arm.label for arm in design.arms], shown=index % columns == 0)
            for row, result in enumerate(one.results):
                values = _values_of(result, one.quantity)
                axes.plot(values, [row] * len(values), "o", ms=2.5, color=theme.thin, lw=0, zorder=1)
                _plot_estimate(axes, row, result, theme.accent, "o")
            axes.set_xlabel(_label(one.quantity), fontsize=8)
        return figure
    figure, panels = make_grid(theme, len(comparisons), columns, PANEL_INCHES)
    colors = theme.shades(len(curves.lines)) if len(curves.lines) > 1 else [theme.accent]
    for axes, one in zip(panels, comparisons, strict=True):
        _set_numbers(axes, curves)
        for index, (line, color) in enumerate(zip(curves.lines, colors, strict=True)):
            for place, number in zip(line.places, line.numbers, strict=True):
                values = _values_of(one.results[place], one.quantity)
                axes.plot([number] * len(values), values, "o", ms=2.5, color=theme.thin, lw=0, zorder=1)
            look = (color, LINES[index % len(LINES)], MARKERS[index % len(MARKERS)])
            _plot_line(axes, line, one.results, look, line.label)
        axes.set_ylabel(_label(one.quantity), fontsize=8)
    if len(curves.lines) > 1:
        add_legend(panels[0], theme, ", ".join(key for key in design.keys if key != curves.key))
    return figure


def plot_differences(theme: Theme, comparison: Comparison) -> Figure:
    """A row for each arm: its paired difference from the baseline. A band: of other seeds alone; a wide one at 0: the margin."""
    others = [one for one in comparison.results if one.arm is not comparison.baseline]
    figure, (axes,) = make_grid(theme, 1, 1, FOOT_INCHES + ROW_INCHES * len(others))
    if comparison.margin:
        axes.axvspan(-comparison.margin, comparison.margin, color=theme.grid, zorder=0)
    axes.axvline(0, color=theme.muted, lw=1, zorder=1)
    for row, one in enumerate(others):
        if one.difference is None:
            continue
        color = theme.accent if one.verdict in ("lower", "higher") else theme.muted
        if comparison.has_dialogues:
            _draw_interval(axes, row, one.difference.seed_interval, theme.grid, 8)
        _draw_interval(axes, row, one.difference.interval, color, 1.8)
        axes.plot([one.difference.mean], [row], "o", ms=6, color=color, zorder=3)
    _label_rows(axes, [one.arm.label for one in others])
    words = {"lower": "lower is better", "higher": "higher is better"}.get(comparison.quantity.better, "")
    details = ", ".join(filter(None, (unit_of(comparison.quantity).strip(), words)))
    label = f"{comparison.quantity.name} minus that of {comparison.baseline.label}"
    label = f"{label} ({details})" if details else label
    axes.set_xlabel(textwrap.fill(label, LABEL_CHARACTERS), fontsize=8)
    return figure


def plot_roles(theme: Theme, comparisons: Sequence[Comparison], design: Design) -> Figure:
    """The losses of the roles in one panel, and that of the end of a dialogue, which is much lower, in another."""
    curves = find_curves(design)
    on_curve = curves is not None and len(curves.lines) == 1
    groups = [[one for one in comparisons if (one.quantity.name == "end_nll") == is_end] for is_end in (False, True)]
    groups = [group for group in groups if group]
    height = ROLES_INCHES if on_curve else FOOT_INCHES + 0.3 + ROW_INCHES * len(design.arms)
    figure, panels = make_grid(theme, len(groups), len(groups), height)
    for index, (axes, group) in enumerate(zip(panels, groups, strict=True)):
        if curves and on_curve:
            _set_numbers(axes, curves)
            axes.set_ylabel(LOSS if index == 0 else "", fontsize=8)
        else:
            _label_rows(axes, [arm.label for arm in design.arms], shown=index == 0)
            axes.set_xlabel(LOSS, fontsize=8)
        for one in group:
            _plot_role(axes, theme, one, curves.lines[0] if curves and on_curve else None)
        add_legend(axes, theme)
    return figure


def _plot_role(axes: Axes, theme: Theme, comparison: Comparison, line: Line | None) -> None:
    """The loss of one role: along a line, or in a row for each arm."""
    role = comparison.quantity.name.removesuffix("_nll")
    color, style, marker = {
        "assistant": (theme.assistant, "-", "o"), "user": (theme.user, "--", "s"), "end": (theme.end, ":", "D")
    }[role]  # fmt: skip
    label = "end of the dialogue" if role == "end" else role
    if line:
        _plot_line(axes, line, comparison.results, (color, style, marker), label)
        return
    shift = {"assistant": -0.12, "user": 0.12}.get(role, 0.0)  # so that their intervals are apart
    for row, result in enumerate(comparison.results):
        _plot_estimate(axes, row + shift, result, color, marker, label if row == 0 else None)


def _set_numbers(axes: Axes, curves: Curves) -> None:
    """The axis of the swept number: a tick for each value, as far as they fit."""
    numbers = sorted({number for line in curves.lines for number in line.numbers})
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 4:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    shown = numbers[:: math.ceil(len(numbers) / MAX_TICKS)]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.set_xticks(shown, [f"{number:g}" for number in shown])
    axes.set_xlabel(curves.key, fontsize=8)


def _label_rows(axes: Axes, labels: Sequence[str], shown: bool = True) -> None:
    axes.set_yticks(range(len(labels)), labels if shown else [""] * len(labels))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _values_of(result: ArmResult, quantity: Quantity) -> list[float]:
    return [value for run in result.arm.runs.values() if (value := quantity.value(run)) is not None]


def _plot_line(
    axes: Axes, line: Line, results: Sequence[ArmResult], look: tuple[str, str, str], label: str = ""
) -> None:
    """The means of a line and their intervals; `look` has colour, line style and marker."""
    color, style, marker = look
    ends = [(x, results[place].estimate) for place, x in zip(line.places, line.numbers, strict=True)]
    found = [(x, one) for x, one in ends if one]
    halves = [(one.interval.high - one.interval.low) / 2 if one.interval else 0.0 for _, one in found]
    axes.errorbar(
        [x for x, _ in found], [one.mean for _, one in found], yerr=halves, color=color, ls=style, lw=1.3, marker=marker,
        ms=4.5, capsize=2.5, elinewidth=1.3, zorder=2, label=label or None,
    )  # fmt: skip


def _plot_estimate(
    axes: Axes, row: float, result: ArmResult, color: str, marker: str, label: str | None = None
) -> None:
    """The mean of an arm in its row, with its interval."""
    if result.estimate:
        _draw_interval(axes, row, result.estimate.interval, color, 1.3)
        axes.plot([result.estimate.mean], [row], marker, ms=4.5, color=color, zorder=3, label=label)


def _draw_interval(axes: Axes, row: float, interval: Interval | None, color: str, width: float) -> None:
    if interval:
        axes.plot([interval.low, interval.high], [row, row], color=color, lw=width, solid_capstyle="butt", zorder=2)


def _label(quantity: Quantity) -> str:
    unit = unit_of(quantity).strip()
    return f"{quantity.name}\n({unit})" if unit else quantity.name
