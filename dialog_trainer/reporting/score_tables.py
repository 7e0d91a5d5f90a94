"""Tables and figures of validation scores: for the terminal, for `scores.md`, and by depth of the turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.reporting.plotting import FigureStyle, headroom, make_panels
from dialog_trainer.reporting.tables import TextTable

INTERVAL = "95 % interval"
Scored = Mapping[str, Any]


def build_score_table(title: str, scored: Scored) -> TextTable:
    """Each score with its confidence interval and the scores of the baselines.

    `scored` is the content of `scores.json`, or its part without contamination.
    """
    baselines = scored["baselines"]
    rows = [
        [name, _number(score["value"]), _interval(score), *(_number(values.get(name)) for values in baselines.values())]
        for name, score in scored["scores"].items()
    ]
    return TextTable(title, ["score", "model", INTERVAL, *baselines], rows)


def build_difference_table(compared: Scored) -> TextTable:
    """`compared` of scores.json: this checkpoint minus another one, over the same dialogues."""
    rows = [
        [name, _number(score["difference"], sign="+"), _interval(score, sign="+"), f"{score['p_value']:.3f}"]
        for name, score in compared["differences"].items()
    ]
    return TextTable(
        f"Difference from {compared['with']} (positive: higher here)",
        ["score", "difference", INTERVAL, "p"],
        rows,
    )


def build_depth_table(scored: Scored) -> TextTable:
    """Scores by the number of turns before the reply."""
    names = list(scored["by_depth"][0]["scores"]) if scored["by_depth"] else []
    rows = [
        [bin_["depth"], f"{bin_['replies']:,}", *(_number(bin_["scores"][name]) for name in names)]
        for bin_ in scored["by_depth"]
    ]
    return TextTable("By depth of the turn (number of turns before it)", ["depth", "replies", *names], rows)


def render_markdown(scored: Scored, notes: Sequence[str], tables: Sequence[TextTable]) -> str:
    """The text of `scores.md`."""
    lines = [f"# Scores of {scored['checkpoint']} on split {scored['split']}", ""]
    lines += [line for note in notes for line in (note, "")]
    for table in tables:
        lines += [f"## {table.title}", "", _row(table.head), _row(["---", *["---:"] * (len(table.head) - 1)])]
        lines += [*(_row(row) for row in table.rows), ""]
    return "\n".join(lines)


def plot_by_depth(style: FigureStyle, scored: Scored, names: Sequence[str]) -> Figure:
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
        axes.set_ylim(bottom=0, top=headroom(values, 1.3))
        axes.set_xticks(range(len(bins)), labels)
    return figure


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _interval(score: Scored, sign: str = "") -> str:
    if score["low"] is None:
        return "-"
    return f"{_number(score['low'], sign)} to {_number(score['high'], sign)}"


def _number(value: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    if abs(value) >= 1e9:  # a perplexity without bounds
        return f"{value:{sign}.1e}"
    if abs(value) >= 100:
        return f"{value:{sign},.1f}"
    return f"{value:{sign}.4f}" if round(value, 4) else "0.0000"  # never "-0.0000"
