"""How a row or a turn with certain keys is read: which key is what, which are flags, and which are not read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dialog_trainer.command_line import format_override
from dialog_trainer.data.sources.loss_flags import is_flag
from dialog_trainer.data.sources.roles import ALTERNATE, KNOWN_ROLES
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.data.sources.row_texts import may_be_list, read_list

# What a row or a turn has -> the keys that it is known by, in small letters. `data.columns` gives others.
KNOWN_KEYS: dict[str, tuple[str, ...]] = {
    "turns": ("turns", "messages", "conversations", "conversation", "dialog", "dialogue", "utterances"),
    "role": ("role", "from", "speaker", "author", "sender", "agent"),
    "text": ("content", "text", "value", "utterance", "message"),
    "dialogue": ("dialogue_id", "dialog_id", "conversation_id", "conv_id"),
    "prompt": ("prompt", "instruction", "question", "query", "q", "user", "human"),
    "completion": ("completion", "response", "output", "answer", "reply", "a", "assistant"),
    "input": ("input",),
    "history": ("history",),
    "system": ("system", "system_prompt", "system_message"),
    "tools": ("tools",),
    "references": ("references",),
}
CALLS = ("tool_calls", "function_call")
# Rows of pairs to choose from, and of answers with a judgement, are no dialogues to learn.
_PREFERENCE = re.compile(
    r"^chosen$|(^|_)(rejected|dispreferred)(_|$)|^(non_)?preferred_output$|^kto_tag$", re.IGNORECASE
)
# Keys of turns that may say who speaks, under a name that is not known; `type` and others do where they hold a role.
_SPEAKER = re.compile(r"speaker|role|sender|author|interlocutor|^is_(bot|user|human|assistant)$|^name$", re.IGNORECASE)
# Keys of trees of messages: ChatGPT's and others' exports, OpenAssistant.
_TREE = ("parent_id", "mapping", "message_tree_id")
FORMS = (
    "a list under turns, messages or conversations; prompt and completion, instruction and output, or question and "
    "answer; or a row for each utterance with dialogue_id, speaker and text"
)
MAX_KEYS_SHOWN = 12


@dataclass(slots=True)
class Plan:
    """How rows, or turns, with the same keys are read.

    `form` is list, pair or utterance (of a turn: pair or empty); `keys` maps what was found to its key; `flags` are the
    keys of flags, `calls` those of calls of tools, `unread` those that are not read. `count` counts such rows or turns.
    """

    form: str
    keys: dict[str, str]
    flags: tuple[str, ...]
    unread: tuple[str, ...]
    calls: tuple[str, ...] = ()
    count: int = 0

    @property
    def is_plain(self) -> bool:
        """Of a turn: it has a role, a text, and no more."""
        return not (self.form or self.flags or self.calls or self.unread) and self.keys.keys() == {"role", "text"}


def plan_row(row: Mapping[str, Any], columns: Mapping[str, str | None]) -> Plan:
    """Raises `RowError` for keys that are no dialogue, or more than one."""
    finder = _Finder(row, columns)
    if not columns.keys() & {"turns", "completion"}:  # whoever names the good answer means it
        _refuse_preferences(finder.present)
    finder.check_mapped("turns", "dialogue")
    lists = finder.find_all("turns")
    readable = [key for key in lists if may_be_list(row[key])]
    if len(readable) > 1:
        raise RowError(
            f"has both {' and '.join(map(repr, readable))}; choose one: 'data.columns={{turns: {readable[0]}}}'"
        )
    keys = finder.find_each("system", "tools", "references")
    if not readable:
        finder.check_mapped("prompt", "completion")
    pair = {} if readable else finder.find_pair()
    utterance = {} if readable or pair else _find_utterance(finder)
    if readable:
        keys["turns"] = readable[0]
    elif pair:
        keys |= pair | finder.find_each("history")
        keys |= {field: key for field, key in finder.find_each("input").items() if key != pair["prompt"]}
    elif utterance:
        keys = utterance
    elif lists:
        read_list(row[lists[0]], repr(lists[0]))  # says what it is
    else:
        _refuse_trees(finder)
        empty = [
            key
            for key, value in row.items()
            if value is None and key.lower() in (*KNOWN_KEYS["text"], finder.columns.get("text"))
        ]
        if empty and finder.find_all("dialogue"):
            raise RowError(f"is an utterance whose {empty[0]!r} is empty (null); write it, or remove the row")
        raise RowError(f"expected {FORMS}; found the keys {_show(row)}. {_advise(finder)}")
    form = "list" if readable else "pair" if pair else "utterance"
    flags = () if form == "utterance" else finder.find_flags()
    return Plan(form, keys, flags, finder.find_unread(keys, flags, ()))


def plan_item(item: Mapping[str, Any], columns: Mapping[str, str | None], prefix: str) -> Plan:
    """`prefix` stands before the names of keys that are not read. Raises `RowError`."""
    finder = _Finder(item, columns)
    keys, flags = finder.find_each("role", "text"), finder.find_flags()
    calls = tuple(key for key in CALLS if item.get(key) is not None)
    if not calls:
        finder.check_mapped("role", "text")
    null_texts = [finder.lower[name] for name in KNOWN_KEYS["text"] if name in finder.lower]
    if "text" not in keys and null_texts:
        keys["text"] = null_texts[0]
    pair = {} if "text" in keys or calls else finder.find_pair()
    if not pair and not calls and "text" not in keys:
        raise RowError(
            f"has no text: its keys are {_show(item)}. Name that of the text: 'data.columns={{text: ...}}'; or, where an object "
            "holds a question and its answer, 'data.columns={prompt: ..., completion: ...}'"
        )
    if pair:
        keys |= pair
    elif "role" not in keys and "role" not in columns:
        _refuse_speakers(finder, set(keys.values()))
    skipped = finder.find_each("dialogue") if not prefix else {}
    return Plan("pair" if pair else "", keys, flags, finder.find_unread(keys | skipped, flags, calls, prefix), calls)


class _Finder:
    """Finds the keys of a row or turn by what they are known by, or by `data.columns`. A key with null is absent."""

    def __init__(self, row: Mapping[str, Any], columns: Mapping[str, str | None]):
        self.columns = columns
        self.row = row
        self.present = {str(key): value for key, value in row.items() if value is not None}
        self.lower = {str(key).lower(): str(key) for key in reversed(list(row))}

    def check_mapped(self, *fields: str) -> None:
        """Raises `RowError` if there is no key that `data.columns` names for one of the fields."""
        for field in fields:
            key = self.columns.get(field)
            if key is not None and key not in self.row:
                near = difflib.get_close_matches(key, map(str, self.row), n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise RowError(f"data.columns.{field}: there is no key {key!r}; {hint}The keys are {_show(self.row)}")

    def find_all(self, field: str) -> list[str]:
        """The keys, not null, that `field` may be."""
        if field in self.columns:
            key = self.columns[field]
            return [key] if key is not None and key in self.present else []
        known = (self.lower.get(name) for name in KNOWN_KEYS[field])
        return [key for key in known if key is not None and key in self.present]

    def find_each(self, *fields: str) -> dict[str, str]:
        """The first key of each field that has one."""
        return {field: keys[0] for field in fields if (keys := self.find_all(field))}

    def find_pair(self) -> dict[str, str]:
        """The keys of question and answer; one of them may be null. Raises `RowError` where there are several."""
        found = dict[str, str]()
        for field in ("prompt", "completion"):
            if field in self.columns:
                keys = [key for key in (self.columns[field],) if key in self.row]
            else:
                keys = [self.lower[name] for name in KNOWN_KEYS[field] if name in self.lower]
                if field == "prompt" and not keys and "input" in self.lower:
                    keys = [self.lower["input"]]
                keys = [key for key in keys if key in self.present] or keys
            if len(keys) > 1:
                raise RowError(
                    f"has {' and '.join(map(repr, keys))}, each of which may be the {field}; choose one: "
                    f"'data.columns={{{field}: {keys[0]}}}'"
                )
            if keys:
                found[field] = str(keys[0])
        return found if len(found) == 2 else {}

    def find_flags(self) -> tuple[str, ...]:
        if "weight" in self.columns and self.columns["weight"] is None:
            return ()
        return tuple(key for key in self.present if key == self.columns.get("weight") or is_flag(key))

    def find_unread(
        self, keys: Mapping[str, str], flags: tuple[str, ...], calls: tuple[str, ...], prefix: str = ""
    ) -> tuple[str, ...]:
        read = {*keys.values(), *flags, *calls}
        return tuple(f"{prefix}{key}"[:100] for key in self.present if key not in read)


def _refuse_preferences(row: Mapping[str, Any]) -> None:
    for key, value in row.items():
        is_label = key.lower() == "label" and (isinstance(value, bool) or value in ("true", "false", "True", "False"))
        if is_label or _PREFERENCE.search(key):
            raise RowError(
                f"has the key {key!r}: a row of preferences or of judged answers is not a dialogue to learn. Keep the "
                "good answers in a file of their own, or name the columns that hold them: "
                "'data.columns={prompt: ..., completion: ...}' or 'data.columns={turns: ...}'"
            )


def _find_utterance(finder: _Finder) -> dict[str, str]:
    keys = finder.find_each("dialogue", "text")
    if len(keys) < 2:
        return {}
    _refuse_trees(finder)
    return keys


def _refuse_trees(finder: _Finder) -> None:
    for name in _TREE:
        if name in finder.lower:
            raise RowError(
                f"is a message of a tree, or a tree ({finder.lower[name]!r}); write each path of the tree as a row with 'messages'"
            )


def _refuse_speakers(finder: _Finder, read: set[str]) -> None:
    """Raises `RowError` if a turn without a role has a key, not one of `read`, that may say who speaks."""
    for key in finder.present.keys() - read:
        value = finder.present[key]
        if _SPEAKER.search(key) or (isinstance(value, str) and value.lower() in KNOWN_ROLES):
            column = format_override("data.columns", {"role": key})
            raise RowError(f"has the key {key!r}, which may say who speaks: pass {column}, or {ALTERNATE}")


def _advise(finder: _Finder) -> str:
    """What to type for a row of other keys: what it may be is advised where one reading alone is at hand."""
    present = {key: value for key, value in finder.present.items() if not key.lower().endswith("id")}
    if finder.find_all("role") and finder.find_all("text"):
        return "The rows of one dialogue need its id: name its column, 'data.columns={dialogue: ...}'"
    lists = [
        key for key, value in present.items() if isinstance(value, str | list) and may_be_list(value) and len(value) > 1
    ]
    texts = [key for key, value in present.items() if isinstance(value, str)]
    columns = {}
    if len(lists) == 1 and not finder.find_all("prompt") + finder.find_all("completion"):
        columns = {"turns": lists[0]}
    elif len(texts) == len(present) == 2:
        columns = dict(zip(("prompt", "completion"), texts, strict=True))
    perhaps = f", perhaps {format_override('data.columns', columns)}" if columns else ""
    return f"Name others with data.columns{perhaps}"


def _show(row: Mapping[str, Any]) -> str:
    names = [repr(str(key)[:60]) + (" (null)" if value is None else "") for key, value in row.items()]
    more = f" and {len(names) - MAX_KEYS_SHOWN:,} more" if len(names) > MAX_KEYS_SHOWN else ""
    return (", ".join(names[:MAX_KEYS_SHOWN]) or "none") + more
