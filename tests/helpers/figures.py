"""Runs without figures, which take most of the time of a tiny run."""

import pytest

TRAINING = (
    "callbacks.TrainingCallbacks._draw_curves", "callbacks.TrainingCallbacks._draw_alignment", "fit.plot_schedule",
    "fit.save_figures",
)  # fmt: skip
VALIDATE = ("validate.plot_by_depth", "validate.save_figures")


def skip_figures(patch: pytest.MonkeyPatch, names: tuple[str, ...] = TRAINING) -> None:
    for name in names:
        patch.setattr(f"dialog_trainer.cli.commands.{name}", lambda *arguments, **keys: None)
