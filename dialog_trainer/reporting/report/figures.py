"""Figures of a report on runs, for the page and for papers: means, differences, loss by role, learning curves.

Imports matplotlib: import this module only where `figures.enabled` is true.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from dialog_trainer.reporting.plotting import DARK, LIGHT, Theme, render_figure
from dialog_trainer.reporting.report.arms import Design
from dialog_trainer.reporting.report.comparison import Comparison
from dialog_trainer.reporting.report.plot_arms import plot_differences, plot_means, plot_roles
from dialog_trainer.reporting.report.plot_learning import plot_learning
from dialog_trainer.reporting.report.sentences import place_of
from dialog_trainer.reporting.report.tables import format_estimate

MAX_PANELS = 8
# Of the figures for papers, which a light page shows too, and of those of a dark page.
PAPER_DPI, DARK_DPI = 220, 130
# CSS pixels of an inch.
_PIXELS = 96
_ROLES = ("assistant", "user", "end")


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A figure that can be drawn in each theme; `alt` says in text what it shows."""

    name: str
    caption: str
    alt: str
    draw: Callable[[Theme], Figure]


def draw_figures(
    comparisons: Sequence[Comparison], design: Design
) -> tuple[list[dict[str, Any]], dict[str, str | bytes]]:
    """The figures of a comparison as the page takes them, and the files for papers by name."""
    embedded: list[dict[str, Any]] = []
    files: dict[str, str | bytes] = {}
    for one in _build_figures(comparisons, design):
        light = one.draw(LIGHT)
        png = render_figure(light, dpi=PAPER_DPI)
        embedded.append(_embed(one, png))
        files |= {f"figures/{one.name}.png": png, f"figures/{one.name}.pdf": render_figure(light, "pdf")}
    return embedded, files


def _build_figures(comparisons: Sequence[Comparison], design: Design) -> list[ReportFigure]:
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
                lambda theme: plot_differences(theme, primary),
            )
        )
        found.append(
            ReportFigure(
                "means",
                f"Mean over seeds with 95 % interval, {place_of(primary.quantity)}; points: single runs.",
                "; ".join(_describe(one) for one in here),
                lambda theme: plot_means(theme, here, design),
            )
        )
    if len(roles) > 1 and len(design.arms) > 1:
        found.append(
            ReportFigure(
                "loss_by_role",
                f"Loss by role, {place_of(primary.quantity)}: mean over seeds with 95 % interval.",
                "; ".join(_describe(one) for one in roles),
                lambda theme: plot_roles(theme, roles, design),
            )
        )
    if any(len(run.rows.validations) > 1 for arm in design.arms for run in arm.runs.values()):
        found.append(
            ReportFigure(
                "learning_curves",
                "Losses on the validation split over training: each run, and in bold the mean over the seeds.",
                "Curves of the validation loss, and of the loss by role, for each setting; the last values are in the tables.",
                lambda theme: plot_learning(theme, design),
            )
        )
    return found


def _embed(figure: ReportFigure, light: bytes) -> dict[str, Any]:
    """A figure as the templates take it; `light` is the PNG of a light page, which is the one that is printed."""
    dark = figure.draw(DARK)
    return {
        "caption": figure.caption,
        "alt": figure.alt,
        "light": base64.b64encode(light).decode("ascii"),
        "dark": base64.b64encode(render_figure(dark, dpi=DARK_DPI)).decode("ascii"),
        "width": round(dark.get_figwidth() * _PIXELS),
    }


def _describe(comparison: Comparison, differences: bool = False) -> str:
    """The numbers of a panel as text."""
    parts = [
        f"{one.arm.label}: {format_estimate(one.difference if differences else one.estimate)}"
        for one in comparison.results
        if not differences or one.arm is not comparison.baseline
    ]
    subject = f"differences of {comparison.quantity.name}" if differences else comparison.quantity.name
    return f"{subject}: {', '.join(parts)}"
