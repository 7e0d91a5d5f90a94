"""How the contenders are called in tables and figures."""

from __future__ import annotations

TITLES = {
    "ours": "ours", "ours-compiled": "ours, compiled", "hf": "HF Trainer", "hf-best": "HF Trainer at its best",
    "trl": "TRL SFTTrainer", "trl-best": "TRL SFTTrainer at its best", "trl-padding-free": "TRL, padding-free",
    "original": "the original's step", "floor": "matrix products alone",
    "hf-large-batches": "HF Trainer, evaluated in batches as large as ours",
}  # fmt: skip


def contender_title(name: str) -> str:
    """For a name of the command line, with the options after its colon."""
    kind, _, options = name.partition(":")
    return f"{TITLES[kind]}, {options.replace('+', ', ')}" if options else TITLES[kind]
