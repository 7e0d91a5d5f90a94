"""What bit-exact continuation depends on beside the settings."""

from __future__ import annotations

import platform

import torch
import transformers

from dialog_trainer import __version__


def surroundings(data_digest: str, vocabulary_digest: str, device: torch.device) -> dict:
    """Saved with each checkpoint, and compared when a run goes on."""
    return {
        "data": data_digest,
        "vocabulary": vocabulary_digest,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "versions": {
            "dialog_trainer": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def differences(saved: dict, today: dict) -> list[str]:
    """A line for each thing that keeps training from going on exactly."""
    lines = []
    if saved["data"] != today["data"]:
        lines.append("the training data are not those of the checkpoint: training goes on, but not exactly")
    pairs = [(key, saved[key], today[key]) for key in ("threads", "device")]
    pairs += [(name, saved["versions"].get(name), version) for name, version in today["versions"].items()]
    lines += [
        f"{name} {after} instead of {before}: sums may differ in their last bits"
        for name, before, after in pairs
        if before != after
    ]
    return lines
