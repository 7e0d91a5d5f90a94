"""Whole tiny runs: what most of them leave out."""

import pytest


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch):
    """They take most of the time of so small a run."""
    for name in ("draw_curves", "draw_loss_by_role", "draw_loss_by_turn", "draw_alignment"):
        monkeypatch.setattr(f"dialog_trainer.cli.commands.callbacks.{name}", lambda *arguments, **keys: None)
    monkeypatch.setattr("dialog_trainer.cli.commands.fit.draw_schedule", lambda *arguments, **keys: None)
    monkeypatch.setattr("dialog_trainer.cli.commands.validate.draw_by_depth", lambda *arguments, **keys: None)
