"""The figures of a mask: its schedule, and what it does to the loss by role, by turn, and to the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from dialog_trainer.evaluation.losses import TURN_NAMES
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.reporting.plotting import (
    ASSISTANT,
    BLUE,
    END,
    GREY,
    USER,
    curve,
    mark_switch,
    one_axes,
    panels,
    save,
)
from dialog_trainer.tracking.jsonl import read_newest_rows

MAX_POINTS = 1_000
MAX_TURN_CURVES = 5
Weights = Callable[[int], RoleWeights]


def draw_schedule(
    path: Path, *, steps: int, learning_rate: Callable[[int], float], role_weights: Weights, switch: int
) -> None:
    """The learning rate and the loss weights over the steps of the run, before the first of them."""
    points = _points(0, steps - 1, switch)
    figure, axes = one_axes("Planned learning rate and mask", "step")
    axes.plot(points, [learning_rate(step) for step in points], color="black", lw=1)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    _plot_weights(axes.twinx(), points, role_weights)
    if 0 < switch < steps:
        mark_switch(axes, switch)
    save(figure, path)


def draw_weights(path: Path, *, schedule_steps: int, role_weights: Weights, switch: int) -> None:
    """The loss weights alone."""
    figure, axes = one_axes("Loss weight by role", "step")
    _plot_weights(axes, _points(0, schedule_steps, switch), role_weights)
    if switch:
        mark_switch(axes, switch)
    save(figure, path)


def draw_loss_by_role(path: Path, metrics: Path, *, role_weights: Weights, switch: int) -> None:
    """The loss of each role, whatever the mask; how far the user's parts from the assistant's; the weights under both."""
    train, validation = read_newest_rows(metrics, "train"), read_newest_rows(metrics, "validation")
    figure, (axes, between, below) = panels("Loss by role", "updates", (3.56, 1.66, 1.18))
    for name, colour in (("user", USER), ("assistant", ASSISTANT), ("end", END)):
        if name != "end":  # of one token a dialogue, too noisy to look at step by step
            curve(axes, train, f"{name}_nll", colour, lw=0.6, alpha=0.35, marker="", label=None)
        curve(axes, validation, f"{name}_nll", colour, marker="o", lw=1.5)
    axes.set_ylabel("nats a token")
    axes.legend(loc="upper right", title="validation (thin: training)", fontsize=8, title_fontsize=8)
    parted = [
        {"step": row["step"], "difference": row["user_nll"] - row["assistant_nll"]}
        for row in validation
        if row.get("user_nll") is not None and row.get("assistant_nll") is not None
    ]
    curve(between, parted, "difference", "black", marker="o", lw=1.2)
    between.axhline(0, color=GREY, lw=0.8)
    between.set_ylabel("user - assistant")
    last = max((rows[-1]["step"] for rows in (train, validation) if rows), default=0)
    _plot_weights(below, _points(0, last, switch), role_weights)
    mark_switch(between, switch, train)
    if train and train[0]["step"] < switch <= train[-1]["step"]:
        for one in (axes, below):
            one.axvline(switch, color=USER, lw=1, ls=":")
    save(figure, path)


def draw_loss_by_turn(path: Path, metrics: Path) -> None:
    """The validation loss over the index of the turn, at up to `MAX_TURN_CURVES` validations, the last one strongest."""
    rows = read_newest_rows(metrics, "validation")
    chosen = sorted({round(place) for place in np.linspace(0, len(rows) - 1, MAX_TURN_CURVES)}) if rows else []
    figure, axes = one_axes(
        "Validation loss by turn", "turn of the dialogue (0, 2, 4 ...: user, where roles alternate)"
    )
    for place, index in enumerate(chosen):
        points = [
            (turn, rows[index][name]) for turn, name in enumerate(TURN_NAMES) if rows[index].get(name) is not None
        ]
        xs, ys = zip(*points, strict=True) if points else ((), ())
        shade = colormaps["viridis_r"](0.15 + 0.75 * (place + 1) / len(chosen))
        axes.plot(xs, ys, color=shade, marker="o", ms=4, lw=1.3, label=f"after {rows[index]['step']:,} updates")
    axes.set_ylabel("nats a token")
    axes.set_xticks(range(len(TURN_NAMES)))
    axes.legend(fontsize=8)
    save(figure, path)


def draw_alignment(path: Path, metrics: Path, *, switch: int) -> None:
    """The cosine of the two roles' gradients, whole and by group of layers, and their norms."""
    rows = read_newest_rows(metrics, "probe")
    title = "Gradients of the user's and the assistant's loss on one held-out batch"
    figure, (axes, below) = panels(title, "updates", (3.36, 2.24))
    prefix = "alignment_cosine_"
    groups = [name.removeprefix(prefix) for name in rows[-1] if name.startswith(prefix)]
    for place, group in enumerate(groups):
        shade = colormaps["viridis"](0.9 * (place + 0.5) / len(groups))
        curve(axes, rows, f"{prefix}{group}", shade, lw=1.0, label=group.replace("_", " "))
    curve(axes, rows, "alignment_cosine", "black", lw=2.0, label="all weights")
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_ylabel("cosine")
    axes.legend(fontsize=8, ncols=2 if len(groups) > 6 else 1)
    for name, colour in (("user", USER), ("assistant", ASSISTANT)):
        curve(below, rows, f"alignment_{name}_norm", colour, label=name)
    below.set_ylabel("norm")
    below.legend(fontsize=8)
    mark_switch(axes, switch, rows)
    save(figure, path)


def draw_lengths(path: Path, lengths: Sequence[int], max_len: int) -> None:
    """How many sequences have how many tokens."""
    figure, axes = one_axes("Lengths of sequences", "tokens")
    axes.hist(lengths, bins=min(64, max_len), range=(0, max_len), color=BLUE)
    axes.set_ylabel("sequences")
    save(figure, path)


def _points(first: int, last: int, switch: int) -> list[int]:
    """At most about `MAX_POINTS` steps, with both sides of the switch."""
    points = {round(first + index * (last - first) / MAX_POINTS) for index in range(MAX_POINTS + 1)}
    return sorted(points | ({switch - 1, switch} if first < switch <= last else set()))


def _plot_weights(axes: Axes, points: list[int], role_weights: Weights) -> None:
    weights = [role_weights(step) for step in points]
    names = ("drawn as the user's", "drawn as the assistant's") if weights[-1].by_lot else ("user", "assistant")
    axes.plot(points, [w.assistant for w in weights], color=ASSISTANT, ls="--", drawstyle="steps-post", label=names[1])
    axes.plot(points, [w.user for w in weights], color=USER, drawstyle="steps-post", label=names[0])
    axes.set_ylabel("loss weight")
    axes.set_ylim(-0.03, 1.05)
    axes.legend(fontsize=8, loc="center right")
