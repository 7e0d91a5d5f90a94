"""Parses one row of a file into turns, and cleans raw dialogues: drops empty turns and short dialogues, and counts them.

A row has one of three forms, and may give accepted texts for the turns after the first:

    {"turns": ["Hi .", {"text": "Hello !", "role": "assistant", "weight": 0.5}]}
    {"messages": [{"role": "user", "content": "Hi ."}, {"role": "assistant", "content": "Hello !", "train": false}]}
    {"conversations": [{"from": "human", "value": "Hi ."}, {"from": "gpt", "value": "Hello !"}]}
    {"turns": ["Hi .", "Hello !"], "references": [["Hello !", "Hi there ."]]}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.types import Dialogue, Role, Turn

ROLE_NAMES = {
    "system": Role.SYSTEM,
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
}
# Key of the list -> the keys of role (None: roles alternate) and text in its items.
ROW_FORMATS = {"turns": (None, "text"), "messages": ("role", "content"), "conversations": ("from", "value")}
# Far above any use, and far below the limits of single precision.
MAX_WEIGHT = 1_000
# Far above any dialogue, and few enough for the memory that they take.
MAX_TURNS = 100_000


class RowError(ValueError):
    """A row that is not a dialogue. The reader adds file and line to the message."""


def alternate_roles(texts: Iterable[str]) -> list[Turn]:
    """Turns of alternating roles: 0, 2, 4 ... are the user's. Raises `RowError` for too many."""
    texts = list(texts)
    _check_number(len(texts))
    return [Turn(Role.ASSISTANT if index % 2 else Role.USER, text) for index, text in enumerate(texts)]


def parse_row(row: object) -> list[Turn]:
    """The turns of a row in any of the three forms. Raises `RowError` with the place in the row."""
    if not isinstance(row, dict):
        raise RowError(f"expected an object with one of {', '.join(ROW_FORMATS)}; found {_kind(row)}")
    form = next((key for key in ROW_FORMATS if key in row), None)
    if form is None:
        raise RowError(
            f"expected one of the keys {', '.join(ROW_FORMATS)}; found {', '.join(map(repr, row)) or 'none'}"
        )
    items = row[form]
    if not isinstance(items, list):
        raise RowError(f"{form!r} should be a list; found {_kind(items)}")
    _check_number(len(items))
    turns = [_turn(item, f"{form}[{index}]", index, *ROW_FORMATS[form]) for index, item in enumerate(items)]
    return turns if "references" not in row else _with_references(turns, row["references"])


def _check_number(turns: int) -> None:
    if turns > MAX_TURNS:
        raise RowError(f"has {turns:,} turns, more than {MAX_TURNS:,}; divide it into shorter dialogues")


def _with_references(turns: list[Turn], references: object) -> list[Turn]:
    """`references[i]` are the accepted texts of turn `i + 1`; without any, its own text alone is accepted.

    An empty text is a reference too: silence is accepted (DailyDialog's multi-reference data have one).
    """
    if not isinstance(references, list):
        raise RowError(f"'references' should be a list of lists of strings; found {_kind(references)}")
    parsed = [_references(texts, f"references[{index}]") for index, texts in enumerate(references)]
    after_first = max(0, len(turns) - 1)
    if any(parsed[after_first:]):  # empty lists may follow: DailyDialog's have one behind the last turn
        raise RowError(f"'references' has {len(references)} lists for {after_first} turns after the first")
    by_turn: list[tuple[str, ...]] = [(), *parsed, *[()] * len(turns)]
    return [dataclasses.replace(turn, references=by_turn[index]) for index, turn in enumerate(turns)]


def _references(texts: object, place: str) -> tuple[str, ...]:
    if not isinstance(texts, list):
        raise RowError(f"{place} should be a list of strings; found {_kind(texts)}")
    return tuple(_text(text, f"{place}[{index}]").strip() for index, text in enumerate(texts))


def _turn(item: object, place: str, index: int, role_key: str | None, text_key: str) -> Turn:
    alternating = Role.ASSISTANT if index % 2 else Role.USER
    if role_key is None and not isinstance(item, dict):
        return Turn(alternating, _text(item, place))
    keys = [key for key in (role_key, text_key) if key]
    if not isinstance(item, dict) or not set(keys) <= set(item):
        raise RowError(f"{place} should be an object with {' and '.join(map(repr, keys))}; found {_kind(item)}")
    _check_spelling(item, place)
    key = role_key or "role"  # optional in `turns`
    role = _role(item[key], f"{place}.{key}") if key in item else alternating
    weight = _weight(item, place)
    if role == Role.SYSTEM and weight not in (None, 0):
        raise RowError(f"{place} gives a loss weight to a system turn, which is never trained; leave it out")
    return Turn(role, _text(item[text_key], f"{place}.{text_key}"), 1.0 if weight is None else weight)


def _role(value: object, place: str) -> Role:
    role = ROLE_NAMES.get(value) if isinstance(value, str) else None
    if role is None:
        raise RowError(f"{place} is {value!r}; known roles: {', '.join(ROLE_NAMES)}")
    return role


def _check_spelling(item: dict[str, Any], place: str) -> None:
    """Refuses misspelt mask keys (case, plural, order of letters), which would otherwise be ignored silently."""
    for key in map(str, item):
        for name in ("train", "weight"):
            if key != name and len(key) <= len(name) + 1 and sorted(key.lower().removesuffix("s")) == sorted(name):
                raise RowError(f"{place} has the key {key!r}; did you mean {name!r}? Rename it")


def _weight(item: dict[str, Any], place: str) -> float | None:
    """The value of `"weight": x` or `"train": false`, None if neither is given."""
    if "train" in item and "weight" in item:
        raise RowError(f"{place} has both 'train' and 'weight'; keep one")
    if "train" in item:
        if not isinstance(item["train"], bool):
            raise RowError(f"{place}.train should be true or false; found {item['train']!r}")
        return float(item["train"])
    if "weight" not in item:
        return None
    weight = item["weight"]
    if type(weight) not in (int, float) or not 0 <= weight <= MAX_WEIGHT:
        raise RowError(f"{place}.weight is {weight!r}; it should be a number from 0 to {MAX_WEIGHT:,}")
    return float(weight)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{place} should be a string; found {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            f"{place} holds half of a character ({value[error.start]!r}, a lone surrogate) at position {error.start}; "
            "write the whole character"
        ) from None
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a boolean"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


@dataclass(slots=True)
class ReadCounts:
    """Counts of what was kept and dropped of one split."""

    dialogues: int = 0
    turns: int = 0
    empty_turns: int = 0
    short_dialogues: int = 0

    def __str__(self) -> str:
        kinds = {"dialogues of fewer than two turns": self.short_dialogues, "empty turns": self.empty_turns}
        dropped = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        return f"{self.dialogues:,} dialogues, {self.turns:,} turns" + (f" (dropped: {dropped})" if dropped else "")


def clean_dialogues(raw: Iterable[RawDialogue], counts: ReadCounts) -> Iterator[Dialogue]:
    """Strips texts, drops empty turns and then dialogues of fewer than two turns, and adds to `counts`.

    A turn keeps its role when an empty turn before it is dropped.
    """
    for identifier, turns in raw:
        kept = tuple(dataclasses.replace(turn, text=turn.text.strip()) for turn in turns if turn.text.strip())
        counts.empty_turns += len(turns) - len(kept)
        if len(kept) < 2:
            counts.short_dialogues += 1
            continue
        counts.dialogues += 1
        counts.turns += len(kept)
        yield Dialogue(identifier, kept)
