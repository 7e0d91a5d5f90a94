"""One row of a file -> `Dialogue`, and what is dropped on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dialog_trainer.types import Dialogue, Role, Turn

ROLE_NAMES = {
    "system": Role.SYSTEM,
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
}
# The three forms of a row: key of the list, then the keys of role (none: by parity) and text in its items.
ROW_FORMATS = {"turns": (None, "text"), "messages": ("role", "content"), "conversations": ("from", "value")}


# Far above any use, and far below where single precision ends.
MAX_WEIGHT = 1_000


class RowError(ValueError):
    """A row that is not a dialogue; the reader adds file and line."""


def alternate_roles(texts: Iterable[str]) -> list[Turn]:
    """Turns whose roles come from parity: 0, 2, 4 ... are the user's."""
    return [Turn(Role.ASSISTANT if index % 2 else Role.USER, text) for index, text in enumerate(texts)]


def parse_row(row: object) -> list[Turn]:
    """Turns of `{"turns": [...]}`, `{"messages": [...]}` or `{"conversations": [...]}`. Raises `RowError`."""
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
    turns = [_turn(item, f"{form}[{index}]", index, *ROW_FORMATS[form]) for index, item in enumerate(items)]
    return turns if "references" not in row else _with_references(turns, row["references"])


def _with_references(turns: list[Turn], references: object) -> list[Turn]:
    """`references[i]` is the list of those of turn `i + 1`; an empty one, or none, leaves the turn its own text alone.
    An empty text is a reference as any: silence is accepted (DailyDialog's have one)."""
    if not isinstance(references, list):
        raise RowError(f"'references' should be a list of lists of strings; found {_kind(references)}")
    found = [_references(texts, f"references[{index}]") for index, texts in enumerate(references)]
    after_first = max(0, len(turns) - 1)
    if any(found[after_first:]):  # empty ones may stand there: DailyDialog's have one for what follows the last turn
        raise RowError(f"'references' has {len(references)} lists for {after_first} turns after the first")
    given = [(), *found, *[()] * len(turns)]
    return [dataclasses.replace(turn, references=given[index]) for index, turn in enumerate(turns)]


def _references(texts: object, place: str) -> tuple[str, ...]:
    if not isinstance(texts, list):
        raise RowError(f"{place} should be a list of strings; found {_kind(texts)}")
    return tuple(_text(text, f"{place}[{index}]").strip() for index, text in enumerate(texts))


def _turn(item: object, place: str, index: int, role_key: str | None, text_key: str) -> Turn:
    by_parity = Role.ASSISTANT if index % 2 else Role.USER
    if role_key is None and not isinstance(item, dict):
        return Turn(by_parity, _text(item, place))
    keys = [key for key in (role_key, text_key) if key]
    if not isinstance(item, dict) or not set(keys) <= set(item):
        raise RowError(f"{place} should be an object with {' and '.join(map(repr, keys))}; found {_kind(item)}")
    _check_spelling(item, place)
    named = role_key or "role"  # a turn may name its role, a message must
    role = _role(item[named], f"{place}.{named}") if named in item else by_parity
    weight = _weight(item, place)
    if role == Role.SYSTEM and weight not in (None, 0):
        raise RowError(f"{place} gives a loss weight to a system turn, which is never trained; leave it out")
    return Turn(role, _text(item[text_key], f"{place}.{text_key}"), 1.0 if weight is None else weight)


def _role(value: object, place: str) -> Role:
    role = ROLE_NAMES.get(value) if isinstance(value, str) else None
    if role is None:
        raise RowError(f"{place} is {value!r}; known roles: {', '.join(ROLE_NAMES)}")
    return role


def _check_spelling(item: dict, place: str) -> None:
    """A mask that is misspelt, in its case, its end or the order of its letters, would be off without a word."""
    for key in item:
        for name in ("train", "weight"):
            if key != name and sorted(key.lower().removesuffix("s")) == sorted(name):
                raise RowError(f"{place} has the key {key!r}; did you mean {name!r}? Rename it")


def _weight(item: dict, place: str) -> float | None:
    """What `"weight": x` or `"train": false` says, None if neither is there."""
    if "train" in item and "weight" in item:
        raise RowError(f"{place} has both 'train' and 'weight'; keep one")
    if "train" in item:
        if not isinstance(item["train"], bool):
            raise RowError(f"{place}.train should be true or false; found {item['train']!r}")
        return float(item["train"])
    weight = item.get("weight")
    if "weight" in item and not (type(weight) in (int, float) and 0 <= weight <= MAX_WEIGHT):
        raise RowError(f"{place}.weight is {weight!r}; it should be a number from 0 to {MAX_WEIGHT:,}")
    return None if weight is None else float(weight)


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
    """What was kept and dropped of one split."""

    dialogues: int = 0
    turns: int = 0
    empty_turns: int = 0
    short_dialogues: int = 0

    def __str__(self) -> str:
        kinds = {"dialogues of fewer than two turns": self.short_dialogues, "empty turns": self.empty_turns}
        dropped = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        return f"{self.dialogues:,} dialogues, {self.turns:,} turns" + (f" (dropped: {dropped})" if dropped else "")


def clean_dialogues(raw: Iterable[tuple[str, list[Turn]]], tally: ReadCounts) -> Iterator[Dialogue]:
    """Strips texts, drops empty turns and then dialogues of fewer than two turns, and counts into `tally`.

    A turn keeps the role that it had before an empty neighbour was dropped.
    """
    for identifier, turns in raw:
        kept = tuple(dataclasses.replace(turn, text=turn.text.strip()) for turn in turns if turn.text.strip())
        tally.empty_turns += len(turns) - len(kept)
        if len(kept) < 2:
            tally.short_dialogues += 1
            continue
        tally.dialogues += 1
        tally.turns += len(kept)
        yield Dialogue(identifier, kept)
