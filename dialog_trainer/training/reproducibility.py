"""What an exact resume depends on besides the configuration: data digests, threads, device, versions."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch
import transformers

from dialog_trainer import __version__
from dialog_trainer.distributed import collectives
from dialog_trainer.training.saved_state import SavedState

# Parts of the digest, as a message names them, and the effect of a difference.
_PARTS = {
    "data": "the training data",
    "vocabulary": "the vocabulary",
    "format": "the format of sequences",
    "truncation": "the truncation",
    "schedule": "the mask schedule",
}
_EFFECTS = dict.fromkeys(_PARTS, "training continues, but not exactly") | {"schedule": "the new one holds from here on"}


def collect_versions() -> dict[str, str]:
    """Versions that must agree on all ranks, and between the attempts of a run that resumes exactly."""
    return {
        "dialog_trainer": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def describe_environment(digest: dict[str, str], device: torch.device, compiled: bool) -> dict[str, Any]:
    """The record that a checkpoint keeps and a resume compares. `digest` covers training data and mask."""
    return {
        "digest": digest,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "processes": collectives.world_size(),
        # torch.compile generates other kernels for another hash seed.
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "random") if compiled else None,
        "versions": collect_versions(),
    }


def describe_differences(saved: SavedState, current: dict[str, Any]) -> list[str]:
    """One line for each difference that keeps a resume from being exact."""
    old_digest, new_digest = saved.digest, current["digest"]
    lines = [
        f"{part} differs from the checkpoint's (digest {new_digest[key]} instead of {old_digest.get(key)}): {_EFFECTS[key]}"
        for key, part in _PARTS.items()
        if old_digest.get(key) != new_digest[key]
    ]
    pairs = [(key, getattr(saved, key), current[key]) for key in ("threads", "device", "processes")]
    pairs += [(name, saved.versions.get(name), version) for name, version in current["versions"].items()]
    seeds = saved.PYTHONHASHSEED, current["PYTHONHASHSEED"]
    if all(seeds):
        pairs.append(("PYTHONHASHSEED", *seeds))
    return lines + [
        f"{name} {new} instead of {old}: sums may differ in their last bits"
        for name, old, new in pairs
        if old != new or new == "random"
    ]
