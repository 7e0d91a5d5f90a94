"""dialog_trainer: train causal language models into multi-turn chatbots, and study which turns carry the loss."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dialog_trainer.api import Chatbot, Message, SavedRun, load_run, train
    from dialog_trainer.config.commands import Command
    from dialog_trainer.errors import CheckpointError, ConfigError, DataError, DialogTrainerError

__version__ = "0.2.0"
__all__ = [
    "Chatbot",
    "CheckpointError",
    "Command",
    "ConfigError",
    "DataError",
    "DialogTrainerError",
    "Message",
    "SavedRun",
    "__version__",
    "load_run",
    "train",
]
_MODULES = {"api": ("Chatbot", "Message", "SavedRun", "load_run", "train"), "config.commands": ("Command",),
            "errors": ("CheckpointError", "ConfigError", "DataError", "DialogTrainerError")}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a name of the public API when it is first used: the command line answers `--help` without torch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"dialog_trainer.{module}"), name)
    raise AttributeError(f"module 'dialog_trainer' has no attribute {name!r}")
