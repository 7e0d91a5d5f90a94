"""Flags of rows and turns that say whether they are trained, under every name that other programs use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from dialog_trainer.data.sources.row_errors import RowError

# Flags that are a weight, and those that are true or false (0 and 1 too).
WEIGHTS = ("weight", "loss_weight", "loss", "loss_mask")
SWITCHES = ("train", "training", "trainable", "train_on_turn", "compute_loss")
FLAGS = (*WEIGHTS, *SWITCHES)
# Some programs mean by them that a turn is trained, others that it is not; or all that it is not, or parts of a text.
AMBIGUOUS = ("masked", "mask", "is_masked", "train_detail", "training_detail", "disable_loss", "ignore_loss")
# Far above any use, and far below the limits of single precision.
MAX_WEIGHT = 1_000


@lru_cache(maxsize=10_000)
def is_flag(key: str) -> bool:
    """Whether a key is a flag. Raises `RowError` for one that is ambiguous, or that is a misspelt flag: case, plural,
    hyphens or order of letters."""
    if key in FLAGS:
        return True
    if key in AMBIGUOUS:
        raise RowError(
            f"has the key {key!r}, which does not say plainly that a turn is trained; write 'train': true or false in "
            "its place, or ignore all flags: 'data.columns={weight: null}'"
        )
    if len(key) > max(map(len, FLAGS)) + 2:
        return False
    letters = key.lower().replace("-", "").replace("_", "")
    for name in FLAGS:
        wanted = sorted(name.replace("_", ""))
        if sorted(letters) == wanted or (letters.endswith("s") and sorted(letters[:-1]) == wanted):
            raise RowError(f"has the key {key!r}; did you mean {name!r}? Rename it")
    return False


def read_flags(item: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    """The weight that the flags `keys` of a turn or row give, None where all are null. Raises `RowError`."""
    found = {key: _read_flag(key, item[key]) for key in keys if item[key] is not None}
    if len(set(found.values())) > 1:
        raise RowError(f"has {' and '.join(map(repr, found))}, which disagree; keep one")
    return next(iter(found.values()), None)


def _read_flag(key: str, value: object) -> float:
    if isinstance(value, str):  # in a table every value is a text
        value = {"true": True, "false": False}.get(value.strip().lower(), _as_number(value))
    if isinstance(value, bool):
        return float(value)
    if key in SWITCHES:
        if value in (0, 1) and not isinstance(value, str):
            return float(value)
        raise RowError(f"has {key!r}: {value!r}; it should be true or false")
    if type(value) not in (int, float) or not 0 <= value <= MAX_WEIGHT:  # type: ignore[operator]
        raise RowError(f"has {key!r}: {value!r}; it should be a number from 0 to {MAX_WEIGHT:,}, or true or false")
    return float(value)  # type: ignore[arg-type]


def _as_number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text
