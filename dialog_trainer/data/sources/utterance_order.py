"""Checks the order of the utterances of a dialogue, a row each, by the numbers that the rows have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from dialog_trainer.data.sources.row_errors import RowError

# Not `id` or `message_id`, which may be any numbers, nor `turn`, which may say whose turn it is.
_NUMBER = re.compile(r"(turn|utterance|utt|sentence)_?(id|idx|index|no|num|number|nr)|idx|index|position|seq|order")
_ANSWERED = re.compile(r"(in_)?reply_to(_id)?")


def check_order(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises `RowError` if the numbers of the utterances go down, or if one answers another than the one before it."""
    for key in {**rows[0], **rows[-1]}:
        kind = _kind_of(key)
        if kind == "number":
            numbers = [_as_number(row.get(key)) for row in rows]
            for before, after in pairwise(numbers):
                if before is not None and after is not None and after < before:
                    raise RowError(f"{key!r} goes from {before:g} to {after:g}; sort the rows of each dialogue by it")
        elif kind == "answered" and rows[0].get("id") is not None:
            for before_row, row in pairwise([{}, *rows]):
                if row.get(key) not in (None, before_row.get("id")):
                    raise RowError(
                        f"answers {row[key]!r} ({key!r}), which is not the utterance before it; sort the rows of each "
                        "dialogue, and write each path of a tree as a dialogue"
                    )


@lru_cache(maxsize=1_000)
def _kind_of(key: str) -> str | None:
    name = key.lower().replace("-", "_")
    return "number" if _NUMBER.fullmatch(name) else "answered" if _ANSWERED.fullmatch(name) else None


def _as_number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) and str(value).strip() else None
    except (ValueError, OverflowError):
        return None
