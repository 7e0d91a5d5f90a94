"""data.sources.protocol."""

from __future__ import annotations

from dialog_trainer.files import sha256_of_texts
from dialog_trainer.types import Turn

SPLITS = ("train", "validation", "test")

RawDialogue = tuple[str, list[Turn]]


def hash_fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on the texts alone."""
    return int(sha256_of_texts(*parts)[:16], 16) / 16**16
