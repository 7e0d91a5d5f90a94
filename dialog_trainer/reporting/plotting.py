"""What all figures share: palette, axes, legends, the mark of the mask switch, and saving."""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dialog_trainer.files import write_atomically

DPI = 120
WIDTH_INCHES = 7.0
# Few points are drawn with a marker at each.
MARKED_POINTS = 40
# Characters of one legend line, markers included.
LEGEND_CHARACTERS = 92
TITLE_CHARACTERS = 82
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Theme:
    """Colors as hex. Against `background`, text and strong lines have a contrast of at least 4.5, thin lines of 3."""

    background: str
    ink: str
    muted: str
    grid: str
    accent: str
    thin: str
    user: str
    assistant: str
    end: str
    user_thin: str
    assistant_thin: str
    # Part of the colormap plasma with enough contrast, from its weakest to its strongest.
    colormap_range: tuple[float, float]

    def shades(self, count: int) -> list[str]:
        """`count` colors from weak to strong."""
        first, last = self.colormap_range
        return [to_hex(colormaps["plasma"](last + (first - last) * n / max(1, count - 1))) for n in range(count)][::-1]


LIGHT = Theme(
    background="#ffffff", ink="#1b1d21", muted="#62676f", grid="#e3e4e6", accent="#6a3d9a", thin="#8f949b", user="#b4540a",
    assistant="#1f5fa8", end="#1b7f6b", user_thin="#cf7a38", assistant_thin="#5f93cf", colormap_range=(0.58, 0.0),
)  # fmt: skip
DARK = Theme(
    background="#1d2025", ink="#eceef0", muted="#a0a6ae", grid="#363a42", accent="#bd93f2", thin="#747a84", user="#f09242",
    assistant="#5c9cec", end="#42bea8", user_thin="#b87038", assistant_thin="#4a78b0", colormap_range=(0.46, 1.0),
)  # fmt: skip
# User dashed, assistant solid, in every figure and on the mask page: the roles differ without color too.
USER_DASHES, ASSISTANT_DASHES, SWITCH_DASHES = "--", "-", ":"


@dataclass(frozen=True, slots=True)
class FigureStyle:
    """How the figures of a run look: the `run` named in their titles, the file `format` (png, svg or pdf), the theme."""

    run: str = ""
    format: str = "png"
    theme: Theme = LIGHT

    def title(self, subject: str) -> str:
        return f"{subject} (run\N{NO-BREAK SPACE}{self.run})" if self.run else subject


def make_panels(
    style: FigureStyle, subject: str, xlabel: str, heights_inches: Sequence[float]
) -> tuple[Figure, list[Axes]]:
    """Axes in a column over one x axis; the heights include labels and legends."""
    theme = style.theme
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights_inches)), layout="constrained", facecolor=theme.background)
    title = textwrap.fill(style.title(subject), TITLE_CHARACTERS)
    families = filter(None, (*rcParams["font.family"], find_font(title)))
    figure.suptitle(title, fontsize=11, color=theme.ink, fontfamily=list(families))
    grid = figure.subplots(len(heights_inches), sharex=True, squeeze=False, height_ratios=heights_inches)
    panels: list[Axes] = grid[:, 0].tolist()
    panels[-1].set_xlabel(xlabel)
    for axes in panels:
        style_axes(axes, theme)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.align_ylabels()
    return figure, panels


def style_axes(axes: Axes, theme: Theme) -> None:
    """Colors, grid and ticks of all figures."""
    axes.set_facecolor(theme.background)
    axes.grid(color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.ink)
    axes.spines[:].set_color(theme.muted)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(theme.ink)
        axis.set_major_formatter(FuncFormatter(format_tick))


@cache
def find_font(text: str) -> str | None:
    """The name of an installed font for the characters of `text` that matplotlib's own lacks, as Chinese ones; "" where it
    lacks none, None where no font has them."""
    missing = set(map(ord, text)) - {*get_font(findfont(FontProperties())).get_charmap(), ord("\n")}
    if not missing:
        return ""
    return _find_listed_font(missing) or (_find_listed_font(missing) if _list_new_fonts() else None)


def _find_listed_font(missing: set[int]) -> str | None:
    for entry in sorted(fontManager.ttflist, key=lambda one: ("CJK" not in one.name, one.name, one.weight != 400)):
        # matplotlib's fallback, whose glyphs are boxes
        if entry.name != "Last Resort High-Efficiency" and missing <= get_font(entry.fname).get_charmap().keys():
            return entry.name
    return None


def _list_new_fonts() -> bool:
    """Adds fonts that were installed after matplotlib made its list, which it keeps in a file; whether there are any."""
    listed = {entry.fname for entry in fontManager.ttflist}
    new = [path for path in findSystemFonts() if path not in listed]
    for path in new:
        with contextlib.suppress(OSError, RuntimeError):  # a damaged file
            fontManager.addfont(path)
    return bool(new)


def describe_missing_font(run: str) -> str | None:
    """A line where the name of a run cannot be drawn in the titles of figures."""
    if find_font(run) is None:
        return f"note: no installed font has the characters of {run}: figures show boxes in their place; install one, as Noto Sans CJK"
    return None


def format_tick(value: float, _position: int | None = None) -> str:
    """As 30,000, 0.25 or 8e-06; without the last bit of a sum."""
    return f"{0.0 if abs(value) < 1e-15 else value:,.10g}"


def plot_rows(axes: Axes, rows: Sequence[Row], name: str, **style: Any) -> None:
    """Plots `name` of `rows` over their steps, without the rows that have no value."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    marker, width = ("o", 1.5) if len(points) < MARKED_POINTS else ("", 0.9)
    steps, values = zip(*points, strict=True) if points else ((), ())
    options: dict[str, Any] = {"marker": marker, "ms": 3, "lw": width, "label": name, **style}
    axes.plot(steps, values, **options)


def mark_switch(axes: Axes, theme: Theme, switch: int, steps: tuple[int, int]) -> None:
    """Draws a dotted line where the mask becomes final, if that lies after the first and up to the last of `steps`."""
    if steps[0] < switch <= steps[1]:
        label = f"mask final from step {switch:,}"
        axes.axvline(switch, color=theme.muted, lw=1.3, ls=SWITCH_DASHES, label=label, gid="switch")


def span_of_steps(*groups: Sequence[Row]) -> tuple[int, int]:
    """The first and the last step of rows that are sorted by step; `(0, 0)` without any."""
    filled = [rows for rows in groups if rows]
    if not filled:
        return 0, 0
    return min(rows[0]["step"] for rows in filled), max(rows[-1]["step"] for rows in filled)


def finish_panels(panels: Sequence[Axes], theme: Theme) -> None:
    """Puts the legends above the panels, clear of all curves, and says where a panel has one point or none.

    A single point gets its own value as the only tick: one point has no scale.
    """
    points = [_curve_points(axes) for axes in panels]
    if len(steps := {x for panel in points for x, _ in panel}) < 2:
        panels[0].set_xticks(sorted(steps))
    for axes, panel in zip(panels, points, strict=True):
        if len({x for x, _ in panel}) < 2:
            note = "one point so far" if panel else "no values yet"
            axes.text(0.01, 0.93, note, transform=axes.transAxes, fontsize=8, color=theme.ink, va="top")
        if len(panel) < 2:
            values = [y for _, y in panel]
            axes.set_yticks(values, [f"{value:,.4g}" for value in values])
        add_legend(axes, theme)


def add_legend(axes: Axes, theme: Theme, title: str = "") -> None:
    """Puts the legend above a panel, clear of all curves, if it has any label."""
    _, labels = axes.get_legend_handles_labels()
    if labels:
        legend = axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=_count_columns(labels), frameon=False, fontsize=8,
            labelcolor=theme.ink, borderaxespad=0.1, borderpad=0.1, handlelength=2.4, title=title or None, title_fontsize=8,
            alignment="left",
        )  # fmt: skip
        legend.get_title().set_color(theme.ink)


def _curve_points(axes: Axes) -> set[tuple[float, float]]:
    """The points of all curves, without the mark of the switch and the line at 0."""
    curves = [line for line in axes.lines if line.get_gid() is None]
    return {(float(x), float(y)) for line in curves for x, y in np.column_stack(line.get_data())}


def _count_columns(labels: Sequence[str]) -> int:
    """As many legend columns as fit, filled one after the other as matplotlib does."""
    for count in range(len(labels), 1, -1):
        columns = np.array_split(np.array([len(label) + 7 for label in labels]), count)
        if sum(column.max() for column in columns) <= LEGEND_CHARACTERS:
            return count
    return 1


def save_figures(run: Path, folder: str, style: FigureStyle, figures: Mapping[str, Figure]) -> None:
    """Writes each figure to `<run>/<folder>/<name>.<format>`, atomically: a reader never sees half a file."""
    for name, figure in figures.items():
        write_atomically(run, f"{folder}/{name}.{style.format}", render_figure(figure, style.format))


def render_figure(figure: Figure, format: str = "png", dpi: int = DPI) -> bytes:
    """The bytes of a file of that format, without the time at which it was made; the fonts of a PDF stay text."""
    content = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
    with warnings.catch_warnings(), rc_context({"pdf.fonttype": 42}):
        warnings.filterwarnings("ignore", message="Glyph")  # the name of a run may be in a script that the font lacks
        figure.savefig(content, dpi=dpi, format=format, metadata=metadata)
    return content.getvalue()


def mark_zero(axes: Axes, theme: Theme) -> None:
    axes.axhline(0, color=theme.muted, lw=0.8, gid="reference")


def headroom(values: Sequence[float]) -> float:
    """An upper end of an axis that begins at 0, a third above the highest value."""
    return max([value for value in values if math.isfinite(value)] + [1e-9]) * 1.3
