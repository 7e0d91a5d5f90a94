"""Whole tiny runs: what most of them leave out."""

import pytest


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch):
    """They take most of the time of so small a run."""
    for name in (
        "callbacks.TrainingCallbacks._draw_curves",
        "callbacks.TrainingCallbacks._draw_alignment",
        "fit.plot_schedule",
        "fit.save_figures",
        "validate.plot_by_depth",
        "validate.save_figures",
    ):
        monkeypatch.setattr(f"dialog_trainer.cli.commands.{name}", lambda *arguments, **keys: None)
