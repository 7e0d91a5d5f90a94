"""Types of the options that name parts of the data: keys of a row, roles of speakers, splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from dialog_trainer.config.fields import Name, Positive, Words, as_tuple
from dialog_trainer.config.frozen import FrozenMapping

# What a row or a turn of data may have; `data.sources.row_plans` has the keys that each is known by.
ROW_FIELDS = (
    "turns", "role", "text", "dialogue", "prompt", "completion", "input", "history", "system", "tools", "references", "weight",
)  # fmt: skip


def _read_name(value: Any) -> str:
    """A name, or the number that is one, as in `{0: user, 1: assistant}`."""
    if type(value) not in (str, int) or value == "":
        raise ValueError("is no name")
    return str(value)


def _read_columns(value: Any) -> FrozenMapping:
    if not isinstance(value, Mapping) or not value or not set(value) <= set(ROW_FIELDS):
        raise ValueError("is not a dict of what a row has")
    return FrozenMapping({field: None if key is None else _read_name(key) for field, key in value.items()})


def _read_roles(value: Any) -> FrozenMapping:
    if not isinstance(value, Mapping) or not value:
        raise ValueError("is not a dict of names")
    named = {}
    for key, names in value.items():
        named[_read_name(key)] = [*map(_read_name, names)] if isinstance(names, list | tuple) else _read_name(names)
    return FrozenMapping(named)


def _read_splits(value: Any) -> FrozenMapping:
    if not isinstance(value, Mapping) or not value or not set(value) <= {"train", "validation", "test"}:
        raise ValueError("is not a dict of splits")
    return FrozenMapping({split: _read_name(name) for split, name in value.items()})


def _read_list(value: Any) -> tuple[Any, ...]:
    if not value:
        raise ValueError("is empty")
    return as_tuple(value)


Sources = Annotated[tuple[Name, ...], BeforeValidator(_read_list), Words("a list of texts, as [a.jsonl,b.csv]")]
Weights = Annotated[tuple[Positive, ...], BeforeValidator(_read_list), Words("a list of numbers above 0, as [1,2.5]")]
Columns = Annotated[
    FrozenMapping,
    PlainValidator(_read_columns),
    Words(f"a dict from {', '.join(ROW_FIELDS)} to keys of the data, as {{turns: utterances, role: speaker}}"),
]
Roles = Annotated[
    FrozenMapping,
    PlainValidator(_read_roles),
    Words("a dict from names to roles, as {agent: assistant}, or from a role to names, as {assistant: Monica}"),
]
SplitNames = Annotated[
    FrozenMapping,
    PlainValidator(_read_splits),
    Words("a dict from train, validation, test to names of splits, as {validation: test}"),
]
