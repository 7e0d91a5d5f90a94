"""Tiny runs without figures."""

import pytest
from helpers.figures import TRAINING, VALIDATE, skip_figures


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch):
    skip_figures(monkeypatch, TRAINING + VALIDATE)
