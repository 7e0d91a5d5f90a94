"""What bit-exact continuation depends on beside the settings."""

from __future__ import annotations

import os
import platform

import torch
import transformers

from dialog_trainer import __version__
from dialog_trainer.distributed import collectives

_PARTS = {
    "data": "the training data",
    "vocabulary": "the vocabulary",
    "format": "the format of sequences",
    "truncation": "the truncation",
    "schedule": "the mask schedule",
}
_EFFECTS = dict.fromkeys(_PARTS, "training goes on, but not exactly") | {"schedule": "it holds from here on"}


def collect_versions() -> dict[str, str]:
    """Those that the processes of a group, and the attempts of a run, should have in common."""
    return {
        "dialog_trainer": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def describe_environment(digest: dict[str, str], device: torch.device, compiled: bool) -> dict:
    """Saved with each checkpoint, and compared when a run goes on. `digest` is that of the mask."""
    hash_seed = os.environ.get("PYTHONHASHSEED", "random") if compiled else None
    return {
        "digest": digest,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "processes": collectives.world_size(),
        "PYTHONHASHSEED": hash_seed,  # what torch compiles depends on it
        "versions": collect_versions(),
    }


def describe_differences(saved: dict, today: dict) -> list[str]:
    """A line for each thing that keeps training from going on exactly."""
    before, after = saved["digest"], today["digest"]
    lines = [
        f"{_PARTS[name]} is not that of the checkpoint (digest {after[name]} instead of {before.get(name)}): {effect}"
        for name, effect in _EFFECTS.items()
        if before.get(name) != after[name]
    ]
    pairs = [(key, saved.get(key), today[key]) for key in ("threads", "device", "processes")]
    pairs += [(name, saved["versions"].get(name), version) for name, version in today["versions"].items()]
    seeds = saved.get("PYTHONHASHSEED"), today["PYTHONHASHSEED"]
    if all(seeds) and (seeds[0] != seeds[1] or "random" in seeds):
        pairs.append(("PYTHONHASHSEED", seeds[0], seeds[1]))
    lines += [
        f"{name} {after} instead of {before}: sums may differ in their last bits"
        for name, before, after in pairs
        if before != after or after == "random"
    ]
    return lines
