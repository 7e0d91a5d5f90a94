"""Tables of validation scores: for the terminal and for `scores.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dialog_trainer.metrics.bootstrap import MIN_DIALOGUES
from dialog_trainer.reporting.tables import TextTable, render_markdown_table

Scored = Mapping[str, Any]


def build_score_table(title: str, scored: Scored) -> TextTable:
    """Each score with its confidence interval and the scores of the baselines.

    `scored` is the content of `scores.json`, or its part without contamination. Where its `dialogues` are few, the head
    of the interval says so.
    """
    baselines = scored["baselines"]
    rows = [
        [name, _number(score["value"]), _interval(score), *(_number(values.get(name)) for values in baselines.values())]
        for name, score in scored["scores"].items()
    ]
    return TextTable(title, ["score", "model", interval_head(scored["dialogues"]), *baselines], rows)


def build_difference_table(compared: Scored, dialogues: int) -> TextTable:
    """`compared` of scores.json: this checkpoint minus another one, over the same `dialogues`."""
    rows = [
        [name, _number(score["difference"], sign="+"), _interval(score, sign="+"), f"{score['p_value']:.3f}"]
        for name, score in compared["differences"].items()
    ]
    return TextTable(
        f"Difference from {compared['with']} (positive: higher here)",
        ["score", "difference", interval_head(dialogues), f"p{_rough(dialogues)}"],
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


def interval_head(dialogues: int) -> str:
    """The head of a column of intervals, which says where they rest on few dialogues."""
    return f"95 % interval{_rough(dialogues)}"


def render_markdown(scored: Scored, notes: Sequence[str], tables: Sequence[TextTable]) -> str:
    """The text of `scores.md`."""
    lines = [f"# Scores of {scored['checkpoint']} on split {scored['split']}", ""]
    lines += [line for note in notes for line in (note, "")]
    for table in tables:
        lines += [f"## {table.title}", "", *render_markdown_table(table), ""]
    return "\n".join(lines)


def _interval(score: Scored, sign: str = "") -> str:
    if score["low"] is None:
        return "-"
    return f"{_number(score['low'], sign)} to {_number(score['high'], sign)}"


def _rough(dialogues: int) -> str:
    return " (rough)" if dialogues < MIN_DIALOGUES else ""


def _number(value: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    if abs(value) >= 1e9:  # a perplexity without bounds
        return f"{value:{sign}.1e}"
    if abs(value) >= 100:
        return f"{value:{sign},.1f}"
    return f"{value:{sign}.4f}" if round(value, 4) else "0.0000"  # with no sign
