"""The learning curves of a run, from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dialog_trainer.reports.canvas import BLUE, GREY, curve, mark_switch, one_axes, save
from dialog_trainer.tracking import newest


def draw_curves(folder: Path, metrics: Path, *, common: Sequence[str], names: Sequence[str], switch: int) -> None:
    """`loss.png`, `lr.png` ... of the quantities in `common`, and `scores.png` of the scores in `names`."""
    train, validation = newest(metrics, "train"), newest(metrics, "validation")
    losses = [name for name in ("train_loss", "validation_loss") if name in common]
    if losses:
        figure, axes = one_axes("Loss", "updates")
        for name, rows, colour in (("train_loss", train, GREY), ("validation_loss", validation, BLUE)):
            if name in losses:
                curve(axes, rows, name, colour)
        axes.set_ylabel("nats a token")
        mark_switch(axes, switch, train)
        axes.legend(loc="lower left")
        save(figure, folder / "loss.png")
    for name in common:
        if name not in losses:
            figure, axes = one_axes(name, "updates")
            curve(axes, train, name, BLUE)
            mark_switch(axes, switch, train)
            save(figure, folder / f"{name}.png")
    if names:
        _draw_scores(folder / "scores.png", validation, names)


def _draw_scores(path: Path, rows: list[dict], names: Sequence[str]) -> None:
    figure = Figure(figsize=(7, 2.1 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True):
        curve(axes, rows, name, BLUE)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    axes.set_xlabel("updates")
    figure.align_ylabels()
    figure.suptitle("Scores on the validation dialogues", fontsize=11)
    save(figure, path)
