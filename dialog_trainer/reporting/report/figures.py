"""Figures of a report on runs, for the page and for papers: means, differences, loss by role, learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from dialog_trainer.reporting.plotting import WIDTH_INCHES, Theme, style_axes
from dialog_trainer.reporting.report.arms import Arm, Design
from dialog_trainer.reporting.report.comparison import ArmResult, Comparison, Quantity
from dialog_trainer.reporting.report.sentences import place_of, unit_of
from dialog_trainer.reporting.report.statistics import Interval
from dialog_trainer.reporting.report.tables import format_estimate

MAX_PANELS = 8
# More labels than these overlap.
MAX_LABELS = 12
PANEL_INCHES = 2.3
ROW_INCHES = 0.34
_LINES = ("-", "--", "-.", ":")
_ROLES = ("assistant", "user", "end")


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A figure that can be drawn in each theme; `alt` says in text what it shows."""

    name: str
    caption: str
    alt: str
    draw: Callable[[Theme], Figure]


def build_figures(comparisons: Sequence[Comparison], design: Design) -> list[ReportFigure]:
    """The figures of a comparison, the first of which is the primary one."""
    primary = comparisons[0]
    place = primary.quantity.place
    here = [one for one in comparisons if one.quantity.place == place][:MAX_PANELS]
    roles = [
        one for one in comparisons if one.quantity.place == place and one.quantity.name in map("{}_nll".format, _ROLES)
    ]
    found = []
    if len(design.arms) > 1:
        found.append(
            ReportFigure(
                "differences",
                f"Paired differences of {primary.quantity.name} {place_of(primary.quantity)} from {design.name_arm(primary.baseline)}. "
                "Lines: 95 % intervals, not adjusted"
                + ("; bands: of other seeds on these test dialogues alone." if primary.has_dialogues else "."),
                _describe(primary, differences=True),
                lambda theme: _plot_differences(theme, primary),
            )
        )
        found.append(
            ReportFigure(
                "means",
                f"Mean over seeds with 95 % interval, {place_of(primary.quantity)}; points: single runs.",
                "; ".join(_describe(one) for one in here),
                lambda theme: _plot_means(theme, here, design),
            )
        )
    if len(roles) > 1 and len(design.arms) > 1:
        found.append(
            ReportFigure(
                "loss_by_role",
                f"Loss by role, {place_of(primary.quantity)}: mean over seeds with 95 % interval.",
                "; ".join(_describe(one) for one in roles),
                lambda theme: _plot_roles(theme, roles, design),
            )
        )
    if any(run.rows.validations for arm in design.arms for run in arm.runs.values()):
        found.append(
            ReportFigure(
                "learning_curves",
                "Losses on the validation split over training: each run, and in bold the mean over the seeds.",
                "Curves of the validation loss, and of the loss by role, for each setting; the last values are in the tables.",
                lambda theme: _plot_learning(theme, design),
            )
        )
    return found


def _describe(comparison: Comparison, differences: bool = False) -> str:
    """The numbers of a panel as text."""
    parts = [
        f"{one.arm.label}: {format_estimate(one.difference if differences else one.estimate)}"
        for one in comparison.results
        if not differences or one.arm is not comparison.baseline
    ]
    subject = f"differences of {comparison.quantity.name}" if differences else comparison.quantity.name
    return f"{subject}: {', '.join(parts)}"


def _make_grid(theme: Theme, count: int, columns: int, panel_inches: float = PANEL_INCHES) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / columns)
    size = (WIDTH_INCHES * (0.62 if count == 1 and columns == 1 else 1), rows * panel_inches)
    figure = Figure(figsize=size, layout="constrained", facecolor=theme.background)
    panels: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        style_axes(axes, theme)
        axes.tick_params(labelsize=8)
    return figure, panels[:count]


def _place_arms(axes: Axes, design: Design) -> list[float]:
    """The x position of each arm: its number, or its place in the order; sets the ticks and the label of the axis."""
    positions = list(design.numbers or range(len(design.arms)))
    if len(set(positions)) < len(positions):  # several keys: arms of the same number
        positions = [float(place) for place in range(len(design.arms))]
    is_axis_of_numbers = design.numbers is not None and positions == list(design.numbers)
    shown = list(zip(positions, design.arms, strict=True))[:: math.ceil(len(positions) / MAX_LABELS)]
    if is_axis_of_numbers and min(positions) > 0 and max(positions) / min(positions) >= 20:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator([position for position, _ in shown]))
    axes.set_xticks([position for position, _ in shown], [arm.label for _, arm in shown])
    if not is_axis_of_numbers and max(len(arm.label) for arm in design.arms) > 5:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlabel(", ".join(design.keys), fontsize=8)
    return positions


def _plot_means(theme: Theme, comparisons: Sequence[Comparison], design: Design) -> Figure:
    figure, panels = _make_grid(theme, len(comparisons), min(2, len(comparisons)))
    for axes, one in zip(panels, comparisons, strict=True):
        positions = _place_arms(axes, design)
        for position, arm in zip(positions, design.arms, strict=True):
            values = [value for run in arm.runs.values() if (value := one.quantity.value(run)) is not None]
            axes.plot([position] * len(values), values, "o", ms=2.5, color=theme.thin, lw=0, zorder=1)
        _plot_line(axes, positions, one.results, theme.accent, "-" if design.numbers else "", "o")
        axes.set_ylabel(_label(one.quantity), fontsize=8)
    return figure


def _plot_line(
    axes: Axes,
    positions: Sequence[float],
    results: Sequence[ArmResult],
    color: str,
    line: str,
    marker: str,
    label: str = "",
) -> None:
    found = [(x, one.estimate) for x, one in zip(positions, results, strict=True) if one.estimate]
    halves = [(one.interval.high - one.interval.low) / 2 if one.interval else 0.0 for _, one in found]
    axes.errorbar(
        [x for x, _ in found], [one.mean for _, one in found], yerr=halves, color=color, ls=line or "none", lw=1.3,
        marker=marker, ms=4.5, capsize=2.5, elinewidth=1.3, zorder=2, label=label or None,
    )  # fmt: skip


def _plot_differences(theme: Theme, comparison: Comparison) -> Figure:
    others = [one for one in comparison.results if one.arm is not comparison.baseline]
    figure, (axes,) = _make_grid(theme, 1, 1, 0.9 + ROW_INCHES * len(others))
    figure.set_size_inches(WIDTH_INCHES, figure.get_figheight())
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
    axes.set_yticks(range(len(others)), [one.arm.label for one in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    words = {"lower": "lower is better", "higher": "higher is better"}.get(comparison.quantity.better, "")
    details = ", ".join(filter(None, (unit_of(comparison.quantity).strip(), words)))
    label = f"{comparison.quantity.name} minus that of {comparison.baseline.label}"
    axes.set_xlabel(f"{label} ({details})" if details else label, fontsize=8)
    return figure


def _label(quantity: Quantity) -> str:
    unit = unit_of(quantity).strip()
    return f"{quantity.name} ({unit})" if unit else quantity.name


def _draw_interval(axes: Axes, row: int, interval: Interval | None, color: str, width: float) -> None:
    if interval:
        axes.plot([interval.low, interval.high], [row, row], color=color, lw=width, solid_capstyle="butt", zorder=2)


def _plot_roles(theme: Theme, comparisons: Sequence[Comparison], design: Design) -> Figure:
    figure, (axes,) = _make_grid(theme, 1, 1, 3.2)
    figure.set_size_inches(WIDTH_INCHES, 3.2)
    positions = _place_arms(axes, design)
    looks = {"assistant": (theme.assistant, "-", "o"), "user": (theme.user, "--", "s"), "end": (theme.end, ":", "D")}
    for one in comparisons:
        role = one.quantity.name.removesuffix("_nll")
        color, line, marker = looks[role]
        _plot_line(axes, positions, one.results, color, line if design.numbers else "", marker, label=role)
    axes.set_ylabel("loss (nats per token)", fontsize=8)
    _add_legend(axes, theme)
    return figure


def _plot_learning(theme: Theme, design: Design) -> Figure:
    names = [
        name
        for name in ("validation_loss", "assistant_nll", "user_nll")
        if any(_curves(arm, name) for arm in design.arms)
    ]
    figure, panels = _make_grid(theme, len(names), 1, 2.6)
    figure.set_size_inches(WIDTH_INCHES, 2.6 * len(names) + 0.3)
    for axes, name in zip(panels, names, strict=True):
        for index, (arm, color) in enumerate(zip(design.arms, theme.shades(len(design.arms)), strict=True)):
            line, curves = _LINES[index % len(_LINES)], _curves(arm, name)
            for steps, values in curves:
                axes.plot(steps, values, color=color, lw=0.6, alpha=0.5, ls=line)
            steps, means = _mean_curve(curves)
            axes.plot(steps, means, color=color, lw=1.8, ls=line, label=arm.label)
        axes.set_ylabel(f"{name}\n(nats per token)", fontsize=8)
    panels[-1].set_xlabel("step", fontsize=8)
    if len(design.arms) > 1:
        _add_legend(panels[0], theme, ", ".join(design.keys))
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


def _add_legend(axes: Axes, theme: Theme, title: str = "") -> None:
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False, fontsize=8, labelcolor=theme.ink, title=title or None,
        title_fontsize=8, borderaxespad=0.1, handlelength=2.4, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(theme.ink)
