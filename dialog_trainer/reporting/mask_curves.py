"""Figures of a loss mask: its schedule, and the loss by role, by turn and the gradients under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dialog_trainer.evaluation.loss_names import TURN_NAMES
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.reporting.curves import NATS
from dialog_trainer.reporting.plotting import (
    ASSISTANT_DASHES,
    USER_DASHES,
    FigureStyle,
    Theme,
    finish_panels,
    make_panels,
    mark_switch,
    mark_zero,
    plot_rows,
    span_of_steps,
)
from dialog_trainer.tracking.jsonl import read_newest_rows

MAX_POINTS = 1_000
MAX_TURN_CURVES = 5
WeightsAtStep = Callable[[int], RoleWeights]


def plot_schedule(
    style: FigureStyle, *, steps: int, learning_rate: Callable[[int], float], role_weights: WeightsAtStep, switch: int
) -> Figure:
    """The planned learning rate and loss weights of a run of `steps` steps."""
    points, theme = _sample_steps(steps - 1, switch), style.theme
    figure, (upper, lower) = make_panels(style, "Planned learning rate and loss weights", "step", (2.6, 1.9))
    upper.plot(points, [learning_rate(step) for step in points], color=theme.accent, lw=1.5, label="learning rate")
    upper.set_ylabel("learning rate")
    upper.set_ylim(bottom=0)
    _plot_weights(lower, theme, points, role_weights)
    for axes in (upper, lower):
        mark_switch(axes, theme, switch, (0, steps - 1))
    finish_panels((upper, lower), theme)
    return figure


def plot_weights(style: FigureStyle, *, schedule_steps: int, role_weights: WeightsAtStep, switch: int) -> Figure:
    """The loss weights over the steps of the schedule."""
    figure, (axes,) = make_panels(style, "Loss weight of the turns", "step", [3.6])
    _plot_weights(axes, style.theme, _sample_steps(schedule_steps, switch), role_weights)
    mark_switch(axes, style.theme, switch, (0, schedule_steps))
    finish_panels([axes], style.theme)
    return figure


def plot_loss_by_role(style: FigureStyle, metrics: Path, *, role_weights: WeightsAtStep, switch: int) -> Figure:
    """The loss of each role, whatever the mask; the user's less the assistant's; and the loss weights."""
    train, validation = read_newest_rows(metrics, "train"), read_newest_rows(metrics, "validation")
    theme, steps = style.theme, span_of_steps(train, validation)
    figure, panels = make_panels(style, "Loss by role, over all tokens of the role", "step", (3.6, 1.9, 1.7))
    upper, middle, lower = panels
    for name, color, thin_color, dashes in (
        ("user", theme.user, theme.user_thin, USER_DASHES),
        ("assistant", theme.assistant, theme.assistant_thin, ASSISTANT_DASHES),
        ("end", theme.end, None, "-"),
    ):
        if thin_color:  # not of the end: one token a dialogue is too noisy step by step
            label = f"{name} (training)"
            plot_rows(upper, train, f"{name}_nll", color=thin_color, lw=0.6, marker="", label=label, zorder=1.5)
        label = "end of dialogue (validation)" if name == "end" else f"{name} (validation)"
        plot_rows(upper, validation, f"{name}_nll", color=color, ls=dashes, marker="o", lw=1.7, label=label)
    upper.set_ylabel(NATS)
    differences = [
        {"step": row["step"], "difference": row["user_nll"] - row["assistant_nll"]}
        for row in validation
        if row.get("user_nll") is not None and row.get("assistant_nll") is not None
    ]
    label = "user less assistant (validation)"
    plot_rows(middle, differences, "difference", color=theme.accent, marker="o", lw=1.5, label=label)
    mark_zero(middle, theme)
    middle.set_ylabel("nats per token")
    _plot_weights(lower, theme, _sample_steps(steps[1], switch), role_weights)
    for axes in panels:
        mark_switch(axes, theme, switch, steps)
    finish_panels(panels, theme)
    return figure


def plot_loss_by_turn(style: FigureStyle, metrics: Path) -> Figure:
    """The validation loss over the index of the turn, at up to `MAX_TURN_CURVES` validations, the last one strongest."""
    rows = read_newest_rows(metrics, "validation")
    chosen = sorted({round(place) for place in np.linspace(0, len(rows) - 1, MAX_TURN_CURVES)}) if rows else []
    xlabel = "turn of the dialogue, from 0 (the user's are even, where roles alternate)"
    figure, (axes,) = make_panels(style, "Validation loss by turn", xlabel, [3.6])
    for index, color in zip(chosen, style.theme.shades(len(chosen)), strict=True):
        row = rows[index]
        points = [(turn, row[name]) for turn, name in enumerate(TURN_NAMES) if row.get(name) is not None]
        turns, values = zip(*points, strict=True) if points else ((), ())
        axes.plot(turns, values, color=color, marker="o", ms=4, lw=1.5, label=f"step {row['step']:,}")
    axes.set_ylabel(NATS)
    finish_panels([axes], style.theme)
    return figure


def plot_alignment(style: FigureStyle, metrics: Path, *, switch: int) -> Figure:
    """The cosine of the two roles' gradients, over all weights and by group of layers, and the norms of both."""
    rows, theme = read_newest_rows(metrics, "probe"), style.theme
    subject = "Gradients of the loss by role, on one held-out batch"
    figure, (upper, lower) = make_panels(style, subject, "step", (3.8, 2.4))
    prefix = "alignment_cosine_"
    groups = [name.removeprefix(prefix) for name in rows[-1] if name.startswith(prefix)] if rows else []
    for group, color in zip(groups, theme.shades(len(groups)), strict=True):
        plot_rows(upper, rows, f"{prefix}{group}", color=color, lw=1.1, label=group.replace("_", " "))
    plot_rows(upper, rows, "alignment_cosine", color=theme.ink, lw=2.2, label="all weights")
    mark_zero(upper, theme)
    upper.set_ylabel("cosine (-1 to 1)")
    for name, color, dashes in (
        ("user", theme.user, USER_DASHES),
        ("assistant", theme.assistant, ASSISTANT_DASHES),
    ):
        plot_rows(lower, rows, f"alignment_{name}_norm", color=color, ls=dashes, label=name)
    lower.set_ylabel("gradient norm")
    for axes in (upper, lower):
        mark_switch(axes, theme, switch, span_of_steps(rows))
    finish_panels((upper, lower), theme)
    return figure


def plot_lengths(style: FigureStyle, lengths: Sequence[int] | np.ndarray, max_len: int) -> Figure:
    """Histogram of the lengths of the sequences, in tokens."""
    figure, (axes,) = make_panels(style, "Lengths of the training sequences", "length (tokens)", [3.6])
    axes.hist(lengths, bins=min(64, max_len), range=(0, max_len), color=style.theme.accent)
    axes.set_ylabel("sequences")
    return figure


def _sample_steps(last: int, switch: int) -> list[int]:
    """At most about `MAX_POINTS` steps, with both sides of the switch."""
    points = {round(index * last / MAX_POINTS) for index in range(MAX_POINTS + 1)}
    return sorted(points | ({switch - 1, switch} if 0 < switch <= last else set()))


def _plot_weights(axes: Axes, theme: Theme, points: Sequence[int], role_weights: WeightsAtStep) -> None:
    """The weights of both roles; a band where the turns are drawn at random."""
    weights = [role_weights(step) for step in points]
    for name, color, dashes in (
        ("assistant", theme.assistant, ASSISTANT_DASHES),
        ("user", theme.user, USER_DASHES),
    ):
        values = [getattr(roles, name) for roles in weights]
        axes.plot(points, values, color=color, ls=dashes, lw=1.8, drawstyle="steps-post", label=f"{name} turns")
    label = "turns drawn at random"
    for random_roles, group in groupby(zip(points, weights, strict=True), key=lambda pair: pair[1].random_roles):
        steps = [step for step, _ in group]
        if random_roles:
            axes.axvspan(steps[0], steps[-1], color=theme.grid, lw=0, label=label, zorder=0)
            label = "_"
    axes.set_ylabel("loss weight")
    axes.set_ylim(-0.05, 1.08)
