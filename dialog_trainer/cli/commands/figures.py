"""The figures that a command draws. Imports matplotlib: import this module only where `figures.enabled` is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dialog_trainer.build.evaluation import select_metrics
from dialog_trainer.build.mask import build_mask
from dialog_trainer.config.schema import Config
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.reporting.curves import ThrottledFigure, plot_by_depth, plot_curves
from dialog_trainer.reporting.mask_curves import (
    plot_alignment,
    plot_loss_by_role,
    plot_loss_by_turn,
    plot_schedule,
)
from dialog_trainer.reporting.plotting import FigureStyle, save_figures


class TrainingFigures:
    """The figures in `vis_outputs` of a run.

    `curves` (after a validation) and `alignment` (after a probe) are drawn from the rows of `metrics.jsonl`. `switch`:
    the step from which the mask is final.
    """

    def __init__(self, run: Path, config: Config, role_weights: Callable[[int], RoleWeights], switch: int):
        self._run, self._config, self._role_weights, self._switch = run, config, role_weights, switch
        self._style, self._rows = FigureStyle(run.name, config.figures.format), run / "metrics.jsonl"
        self.curves, self.alignment = ThrottledFigure(self._draw_curves), ThrottledFigure(self._draw_alignment)

    def draw_schedule(self, learning_rate: Callable[[int], float]) -> None:
        """Draws the learning rate and the loss weights over the steps of the run."""
        figure = plot_schedule(
            self._style,
            steps=self._config.steps,
            learning_rate=learning_rate,
            role_weights=self._role_weights,
            switch=self._switch,
        )
        self._save({"lr_schedule": figure})

    def finish(self) -> None:
        """Draws what the last validations and probes have added. Raises `OSError` where the disk takes no more."""
        self.curves.finish()
        self.alignment.finish()

    def _draw_curves(self) -> None:
        style, rows, switch = self._style, self._rows, self._switch
        scores = {name: score.better for name, score in select_metrics(self._config).items()}
        figures = plot_curves(style, rows, common=self._config.metrics.common, scores=scores, switch=switch)
        figures["loss_by_role"] = plot_loss_by_role(style, rows, role_weights=self._role_weights, switch=switch)
        figures["loss_by_turn"] = plot_loss_by_turn(style, rows)
        self._save(figures)

    def _draw_alignment(self) -> None:
        self._save({"alignment": plot_alignment(self._style, self._rows, switch=self._switch)})

    def _save(self, figures: Mapping[str, Figure]) -> None:
        save_figures(self._run, "vis_outputs", self._style, figures)


def draw_finished_run(run: Path, config: Config) -> None:
    """Draws the curves of a run from its rows, as training does at its end. Raises `OSError`."""
    mask = build_mask(config)
    timeline = build_timeline(mask, config.planned_steps)
    figures = TrainingFigures(
        run, config, lambda step: mask.weigh_roles(timeline.progress(step)), timeline.final_from_step
    )
    figures.curves.renew()
    if config.mask_schedule.alignment_every_n_steps is not None:
        figures.alignment.renew()
    figures.finish()


def draw_by_depth(run: Path, folder: str, config: Config, scored: Mapping[str, Any]) -> None:
    """Draws the scores of `scores.json` by depth of the turn into the `folder` of a run."""
    style = FigureStyle(run.name, config.figures.format)
    save_figures(run, folder, style, {"by_depth": plot_by_depth(style, scored, list(scored["scores"]))})
