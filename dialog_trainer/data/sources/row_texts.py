"""Texts in rows: strings, lists of parts, calls of tools, and the accepted texts of turns."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from dialog_trainer.data.sources.roles import ALTERNATE
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.types import Turn

# What opens a turn in a text of several.
_LABEL = re.compile(r"(?:\A\s*|\n\n|###) *(Human|User|Assistant|System) *:", re.IGNORECASE)


def read_content(item: dict[str, Any], key: str) -> str:
    """The text under a key: a string, null, or a list of parts of type text."""
    value = item[key]
    if isinstance(value, str):
        return read_text(value, f".{key}")
    if value is None:
        return ""
    if not isinstance(value, list):
        raise RowError(f".{key} should be a string; found {kind_of(value)}")
    if len(value) > 1 and all(isinstance(part, str) for part in value):
        raise RowError(
            f".{key} is a list of {len(value):,} texts, and a turn has one: keep one, or write a list of turns"
        )
    return "\n".join(_text_of_part(part, f".{key}[{index}]") for index, part in enumerate(value))


def read_field(row: dict[str, Any], key: str) -> str:
    """As `read_content`, of a key of the row itself."""
    try:
        return read_content(row, key)
    except RowError as error:
        raise RowError(str(error).removeprefix(".")) from None


def read_name(value: object, key: str) -> str | None:
    """The name of a speaker, None if it is blank. Numbers and truth values are names as JSON writes them."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise RowError(f".{key} should be the name of a role; found {kind_of(value)}: write the name there, or {ALTERNATE}")


def _text_of_part(part: object, place: str) -> str:
    if isinstance(part, str):
        return read_text(part, place)
    if not isinstance(part, dict):
        raise RowError(f"{place} should be a text; found {kind_of(part)}")
    kind = part.get("type", "text")
    if kind not in ("text", "input_text", "output_text", "tool_call"):
        raise RowError(f"{place} is of type {kind!r}; only text is read: remove it, or write it as text")
    return read_text(part.get("text", part.get("value")), place)


def write_calls(calls: object, key: str) -> str:
    """Calls of tools as JSON, one a line: `{"name": ..., "arguments": ...}`."""
    lines = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else call
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError(f".{key} should be a list of objects with a function's name; found {kind_of(function)}")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                arguments = function["arguments"]
        lines.append(json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False))
    return read_text("\n".join(lines), f".{key}")


def kind_of(value: object) -> str:
    """The type of a value of JSON, in words."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a boolean"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def may_be_list(value: object) -> bool:
    """Whether `read_list` may read a value."""
    if isinstance(value, str):
        return value.lstrip().startswith("[") or _LABEL.match(value) is not None
    return isinstance(value, list) or _is_object_of_lists(value)


def read_list(value: object, name: str) -> list[Any]:
    """A list; or a text that holds one as JSON, as tables have it; or a text of labelled turns (`Human: ...`, a blank line,
    `Assistant: ...`); or an object of lists, as `datasets` writes sequences: one of roles, one of texts."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError(
                f"{name} is a text that looks like a list but is not JSON; write it with json.dumps"
            ) from None
    elif isinstance(value, str) and _LABEL.match(value):
        _, *parts = _LABEL.split(value)
        return [{"role": name, "content": text} for name, text in zip(parts[::2], parts[1::2], strict=True)]
    elif isinstance(value, dict) and _is_object_of_lists(value):
        return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise RowError(f'{name} should be a list; found {kind_of(value)}: write its turns as ["Hi .", "Hello !"]')
    return value


def _is_object_of_lists(value: object) -> bool:
    if not isinstance(value, dict) or len(value) < 2 or not all(isinstance(items, list) for items in value.values()):
        return False
    return len({len(items) for items in value.values()}) == 1


def read_text(value: object, place: str = "") -> str:
    """A string without halves of characters, as it is. Raises `RowError` for anything else."""
    if not isinstance(value, str):
        raise RowError(f"{place} should be a string; found {kind_of(value)}".lstrip())
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(
                f"{place} holds half of a character ({value[error.start]!r}, a lone surrogate) at position "
                f"{error.start}; write the whole character".lstrip()
            ) from None
    return value


def with_references(turns: list[Turn], references: object) -> list[Turn]:
    """`references[i]` are the accepted texts of turn `i + 1`; without any, its own text alone is accepted.

    An empty text is a reference too: silence is accepted (DailyDialog's multi-reference data have one).
    """
    if not isinstance(references, list):
        raise RowError(f"'references' should be a list of lists of strings; found {kind_of(references)}")
    parsed = [_references(texts, f"references[{index}]") for index, texts in enumerate(references)]
    after_first = max(0, len(turns) - 1)
    if any(parsed[after_first:]):  # empty lists may follow: DailyDialog's have one behind the last turn
        raise RowError(f"'references' has {len(references)} lists for {after_first} turns after the first")
    by_turn: list[tuple[str, ...]] = [(), *parsed, *[()] * len(turns)]
    return [dataclasses.replace(turn, references=by_turn[index]) for index, turn in enumerate(turns)]


def _references(texts: object, place: str) -> tuple[str, ...]:
    if not isinstance(texts, list):
        raise RowError(f"{place} should be a list of strings; found {kind_of(texts)}")
    return tuple(read_text(text, f"{place}[{index}]").strip() for index, text in enumerate(texts))
