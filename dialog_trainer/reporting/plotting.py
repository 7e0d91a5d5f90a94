"""What all figures share: their look, the mark of the switch, and how they are saved."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dialog_trainer.files import write_atomically

BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#d9701e", "#1b7f6b", "#777777"
USER, ASSISTANT, END = ORANGE, BLUE, GREEN
DPI = 120


def panels(title: str, xlabel: str, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Axes one under the other over one x axis; `heights` in inches, with their labels."""
    figure = Figure(figsize=(7, sum(heights)), layout="constrained")
    stack = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0].tolist()
    stack[0].set_title(title, fontsize=11)
    stack[-1].set_xlabel(xlabel)
    for axes in stack:
        axes.grid(alpha=0.25)
    figure.align_ylabels()
    return figure, stack


def one_axes(title: str, xlabel: str) -> tuple[Figure, Axes]:
    figure, (axes,) = panels(title, xlabel, [3.6])
    return figure, axes


def curve(axes: Axes, rows: list[dict], name: str, colour: str, **style: object) -> None:
    """`name` of `rows` over their steps; few points get markers."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    marker, width = ("o", 1.5) if len(points) < 40 else ("", 0.8)
    xs, ys = zip(*points, strict=True) if points else ((), ())
    axes.plot(xs, ys, **{"color": colour, "marker": marker, "ms": 3, "lw": width, "label": name} | style)


def mark_switch(axes: Axes, switch: int, rows: list[dict] | None = None) -> None:
    """A dotted line where the mask becomes final, if that lies within `rows`."""
    if rows is not None and not (rows and rows[0]["step"] < switch <= rows[-1]["step"]):
        return
    axes.axvline(switch, color=ORANGE, lw=1, ls=":")
    axes.annotate(
        f"mask final from step {switch:,}",
        xy=(switch, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -4),
        textcoords="offset points",
        fontsize=8,
        color=ORANGE,
        va="top",
    )


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, atomically: a viewer never sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png")
    write_atomically(path, content.getvalue())
