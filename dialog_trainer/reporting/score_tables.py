"""The scores of a validation as people read them: a Markdown table, the same in the terminal, and scores by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.reporting.plotting import BLUE, panels, save
from dialog_trainer.reporting.tables import TextTable


def build_score_table(title: str, scored: Mapping) -> TextTable:
    """Each score with its interval, and those of the baselines beside it; of `scores.json`, or of its clean part."""
    baselines = scored["baselines"]
    rows = [
        [name, _number(found["value"]), _interval(found), *(_number(values.get(name)) for values in baselines.values())]
        for name, found in scored["scores"].items()
    ]
    return TextTable(title, ["score", "model", "95 % interval", *baselines], rows)


def build_difference_table(compared: Mapping) -> TextTable:
    """`compared` of scores.json: this checkpoint minus another one, over the same dialogues."""
    rows = [
        [name, _number(found["difference"], sign="+"), _interval(found, sign="+"), f"{found['p_value']:.3f}"]
        for name, found in compared["differences"].items()
    ]
    return TextTable(
        f"Difference from {compared['with']} (positive: higher here)",
        ["score", "difference", "95 % interval", "p"],
        rows,
    )


def build_depth_table(scored: Mapping) -> TextTable:
    names = list(scored["by_depth"][0]["scores"]) if scored["by_depth"] else []
    rows = [
        [bin_["depth"], f"{bin_['replies']:,}", *(_number(bin_["scores"][name]) for name in names)]
        for bin_ in scored["by_depth"]
    ]
    return TextTable("By depth of the turn (turns before it)", ["depth", "replies", *names], rows)


def render_markdown(scored: Mapping, notes: Sequence[str], tables: Sequence[TextTable]) -> str:
    """`scores.md`."""
    lines = [f"# Scores of {scored['checkpoint']} on split {scored['split']}", ""]
    lines += [line for note in notes for line in (note, "")]
    for table in tables:
        lines += [f"## {table.title}", "", _row(table.head), _row(["---", *["---:"] * (len(table.head) - 1)])]
        lines += [*(_row(row) for row in table.rows), ""]
    return "\n".join(lines)


def draw_by_depth(path: Path, scored: Mapping, names: Sequence[str]) -> None:
    """One panel a score; the number of replies stands at each point."""
    bins = scored["by_depth"]
    names = [name for name in names if name not in PERPLEXITIES]
    figure, stack = panels("Scores by depth of the turn", "turns before the reply", [1.9] * max(1, len(names)))
    labels = [bin_["depth"] for bin_ in bins]
    for axes, name in zip(stack, names, strict=False):
        values = [bin_["scores"][name] for bin_ in bins]
        axes.plot(labels, values, color=BLUE, marker="o", ms=4, lw=1.3)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0, top=max([*values, 1e-9]) * 1.3)
    for place, bin_ in enumerate(bins):
        if names:
            stack[0].annotate(f"n = {bin_['replies']:,}", (place, bin_["scores"][names[0]]), xytext=(0, 6),
                              textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    save(figure, path)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _interval(found: Mapping, sign: str = "") -> str:
    if found["low"] is None:
        return "-"
    return f"{_number(found['low'], sign)} to {_number(found['high'], sign)}"


def _number(value: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    if abs(value) >= 1e9:  # a perplexity without bounds
        return f"{value:{sign}.1e}"
    if abs(value) >= 100:
        return f"{value:{sign},.1f}"
    return f"{value:{sign}.4f}" if round(value, 4) else "0.0000"  # never "-0.0000"
