"""Draws the figures of `docs/performance.md`: tokens a second of each contender, and how far ours is ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers.heats import FLOOR, REFERENCE
from peers.job import title_of, title_without_precision
from peers.titles import contender_title

from dialog_trainer.reporting.plotting import render_figure

OURS, PEER, PRODUCTS = "#1f77b4", "#8c8c8c", "#c7c7c7"
OF_PRECISION = {"fp32": "#1f77b4", "bf16": "#d9701e"}
BEST_PEER = "hf-best"


def draw_rates(steps: list[dict[str, Any]], path: Path) -> None:
    """Draws a bar for each contender with its lowest and highest round, a panel for each row of results.

    A line of panels has the same setting in each precision, with the same axes.
    """
    precisions = [name for name in OF_PRECISION if any(one["precision"] == name for one in steps)]
    lines: dict[str, dict[str, dict[str, Any]]] = {}
    for one in steps:
        lines.setdefault(title_without_precision(one), {})[one["precision"]] = one
    names = [_names(line) for line in lines.values()]
    heights = [len(one) + 0.2 for one in names]  # as `_draw_panel` limits it: bars are equally thick in all panels
    inches = 0.24 * sum(heights) + 0.6 * len(lines) + 0.3
    figure = Figure(figsize=(2.5 + 5 * len(precisions), inches), layout="constrained")
    axes = figure.subplots(len(lines), len(precisions), height_ratios=heights, squeeze=False)
    for row, (line, shown) in enumerate(zip(lines.values(), names, strict=True)):
        longest = max(one["highest"] for measured in line.values() for one in measured["contenders"])
        for axis, precision in zip(axes[row], precisions, strict=True):
            if precision not in line:
                axis.set_axis_off()
                continue
            _draw_panel(axis, line[precision], shown)
            axis.set_xlim(0, 1.35 * longest)
            if precision != precisions[0] and precisions[0] in line:
                axis.set_yticklabels([])
    figure.supxlabel("real tokens a second, median and spread of the rounds (peak memory)", fontsize=9)
    path.write_bytes(render_figure(figure))


def _names(line: dict[str, dict[str, Any]]) -> list[str]:
    """The contenders of all precisions, the slowest first, by the first precision that measured them."""
    rates = {row["name"]: row["tokens_per_second"] for one in reversed(line.values()) for row in one["contenders"]}
    return sorted(rates, key=lambda name: rates[name])


def _draw_panel(axis: Axes, one: dict[str, Any], names: list[str]) -> None:
    axis.set_yticks(range(len(names)), [contender_title(name) for name in names], fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.4)
    for row in one["contenders"]:
        place, rate = names.index(row["name"]), row["tokens_per_second"]
        color = OURS if row["name"].startswith(REFERENCE) else PRODUCTS if row["name"] == FLOOR else PEER
        errors = [[rate - row["lowest"]], [row["highest"] - rate]]
        axis.barh(place, rate, xerr=errors, color=color, capsize=2, height=0.75, error_kw={"linewidth": 1})
        text = f"  {rate:,.0f}  ({row['peak_bytes'] / 1e9:.1f} GB)"
        axis.text(row["highest"], place, text, va="center", fontsize=7.5)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_title(title_of(one), fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def draw_ratios(steps: list[dict[str, Any]], path: Path) -> bool:
    """Draws our tokens a second over those of HF Trainer at its best, a bar for each setting and precision.

    Returns whether any row of results has both.
    """
    found: dict[str, dict[str, float]] = {}
    for one in steps:
        for row in one["contenders"]:
            if row["name"] == BEST_PEER:
                found.setdefault(title_without_precision(one), {})[one["precision"]] = row["ours_is_faster"]
    if not found:
        return False
    precisions = [name for name in OF_PRECISION if any(name in ratios for ratios in found.values())]
    thick = 0.8 / len(precisions)  # of the distance between two settings
    figure = Figure(figsize=(7.5, 1.1 + 0.27 * len(found) * (len(precisions) + 0.4)), layout="constrained")
    axis = figure.subplots()
    for place, ratios in enumerate(found.values()):
        for precision, ratio in ratios.items():
            at = place + (precisions.index(precision) - (len(precisions) - 1) / 2) * thick
            axis.barh(at, ratio, color=OF_PRECISION[precision], height=0.9 * thick)
            axis.text(ratio, at, f" {ratio:.2f}x {precision}", va="center", fontsize=8)
    axis.set_yticks(range(len(found)), list(found), fontsize=8)
    axis.invert_yaxis()
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xlim(0, 1.12 * max(ratio for ratios in found.values() for ratio in ratios.values()))
    axis.set_xlabel("times as fast as HF Trainer at its best", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    path.write_bytes(render_figure(figure))
    return True
