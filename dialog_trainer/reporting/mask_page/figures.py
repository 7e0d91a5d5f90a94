"""The figures of the mask page. Imports matplotlib: import this module only where `figures.enabled` is true."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dialog_trainer.config.schema import Config
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.timeline import ScheduleTimeline
from dialog_trainer.reporting.mask_curves import plot_lengths, plot_weights
from dialog_trainer.reporting.plotting import DARK, FigureStyle, render_figure, save_figures


def draw_mask_figures(
    folder: Path, config: Config, mask: Mask, timeline: ScheduleTimeline, lengths: np.ndarray
) -> list[tuple[str, bytes, bytes]]:
    """Saves the figures of the mask and returns them for the page: title, PNG for a light and for a dark page.

    `lengths` `(S,)`: tokens of each training sequence.
    """
    titles = {"mask_weights": "Loss weight of the turns", "lengths": "Lengths of the training sequences"}
    style = FigureStyle(config.name, config.figures.format)
    light, dark = (
        {
            "mask_weights": plot_weights(
                one,
                schedule_steps=timeline.schedule_steps,
                role_weights=lambda step: mask.weigh_roles(timeline.progress(step)),
                switch=timeline.final_from_step,
            ),
            "lengths": plot_lengths(one, lengths, config.model.max_len),
        }
        for one in (style, FigureStyle(style.run, theme=DARK))
    )
    save_figures(folder, ".", style, light)
    return [(title, render_figure(light[name]), render_figure(dark[name])) for name, title in titles.items()]
