"""Builds the tracker that the group `logger` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dialog_trainer.build.instantiate import instantiate
from dialog_trainer.tracking.tracker import Tracker


def build_tracker(target: str, arguments: Mapping[str, Any], run_directory: Path) -> Callable[[], Tracker]:
    """A function that makes the tracker of class `target`; the class gets `run_directory` if it has that parameter.

    Raises `ConfigError` if the class cannot be imported (a package is missing) or does not take `arguments`.
    """
    return instantiate(target, arguments, "logger", given=0, run_directory=run_directory)
