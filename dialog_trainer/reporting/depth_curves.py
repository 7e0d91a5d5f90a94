"""Figure of the validation scores by depth of the turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.reporting.plotting import FigureStyle, headroom, make_panels


def plot_by_depth(style: FigureStyle, scored: Mapping[str, Any], names: Sequence[str]) -> Figure:
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
