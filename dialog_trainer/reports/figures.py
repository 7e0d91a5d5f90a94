"""The figures of a run, from its schedules and its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dialog_trainer.masking.schedules import MaskSchedule, final_from_step, progress_of
from dialog_trainer.records import Role
from dialog_trainer.tracking import newest

BLUE, ORANGE, GREY = "#1f5fa8", "#d9701e", "#777777"


def draw_schedule(
    path: Path,
    *,
    steps: int,
    schedule_steps: int,
    learning_rate: Callable[[int], float],
    mask: MaskSchedule,
) -> None:
    """The learning rate and the weight of the user's turns over the steps of the run, before the first of them."""
    points = sorted({round(index * (steps - 1) / 1000) for index in range(1001)})
    switch = final_from_step(mask, schedule_steps)
    if 0 < switch < steps:
        points = sorted({*points, switch - 1, switch})
    figure, axes = _figure("Planned learning rate and mask", "step")
    axes.plot(points, [learning_rate(step) for step in points], color=BLUE)
    axes.set_ylabel("learning rate", color=BLUE)
    axes.set_ylim(bottom=0)
    right = axes.twinx()
    weights = [mask(progress_of(step, schedule_steps)).get(Role.USER, 0.0) for step in points]
    right.plot(points, weights, color=ORANGE, drawstyle="steps-post")
    right.set_ylabel("loss weight of the user's turns", color=ORANGE)
    right.set_ylim(-0.03, 1.05)
    if 0 < switch < steps:
        _mark_switch(axes, switch)
    _save(figure, path)


def draw_curves(folder: Path, metrics: Path, *, common: Sequence[str], names: Sequence[str], switch: int) -> None:
    """`loss.png`, `lr.png` ... of the quantities in `common`, and `scores.png` of the scores in `names`."""
    train, validation = newest(metrics, "train"), newest(metrics, "validation")
    losses = [name for name in ("train_loss", "validation_loss") if name in common]
    if losses:
        figure, axes = _figure("Loss", "updates")
        for name, rows, colour in (("train_loss", train, GREY), ("validation_loss", validation, BLUE)):
            if name in losses:
                _curve(axes, rows, name, colour)
        axes.set_ylabel("nats a token")
        _mark_switch(axes, switch, train)
        axes.legend(loc="lower left")
        _save(figure, folder / "loss.png")
    for name in common:
        if name not in losses:
            figure, axes = _figure(name, "updates")
            _curve(axes, train, name, BLUE)
            _mark_switch(axes, switch, train)
            _save(figure, folder / f"{name}.png")
    if names:
        _draw_scores(folder / "scores.png", validation, names)


def _draw_scores(path: Path, rows: list[dict], names: Sequence[str]) -> None:
    figure = Figure(figsize=(7, 2.1 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True):
        _curve(axes, rows, name, BLUE)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    axes.set_xlabel("updates")
    figure.align_ylabels()
    figure.suptitle("Scores on the validation dialogues", fontsize=11)
    _save(figure, path)


def _curve(axes: Axes, rows: list[dict], name: str, colour: str) -> None:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    marker, width = ("o", 1.5) if len(points) < 40 else ("", 0.8)
    xs, ys = zip(*points, strict=True) if points else ((), ())
    axes.plot(xs, ys, color=colour, marker=marker, ms=3, lw=width, label=name)


def _mark_switch(axes: Axes, switch: int, rows: list[dict] | None = None) -> None:
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


def _figure(title: str, xlabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.25)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
