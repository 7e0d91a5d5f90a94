"""Parses rows into turns, in the forms in which people write dialogues; docs/data.md describes them.

    {"turns": ["Hi .", {"text": "Hello !", "role": "assistant", "weight": 0.5}], "references": [["Hello !", "Hi there ."]]}
    {"messages": [{"role": "user", "content": "Hi ."}, {"role": "assistant", "content": "Hello !", "train": false}]}
    {"conversations": [{"from": "human", "value": "Hi ."}, {"from": "gpt", "value": "Hello !"}], "system": "Be brief ."}
    {"prompt": "Hi .", "completion": "Hello !"}
    {"instruction": "Translate .", "input": "Hallo !", "output": "Hello !", "history": [["Hi .", "Hello !"]]}
    {"dialogue_id": 7, "speaker": "user", "text": "Hi ."}

The keys of a row decide; `data.columns` names others. Text of a turn may be null, or a list of parts of type text.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dialog_trainer.command_line import format_override
from dialog_trainer.data.sources.loss_flags import read_flags
from dialog_trainer.data.sources.roles import ALTERNATE, NamedRole, RoleMap
from dialog_trainer.data.sources.row_errors import RowError, UnknownRoleError
from dialog_trainer.data.sources.row_plans import Plan, plan_item, plan_row
from dialog_trainer.data.sources.row_texts import (
    kind_of,
    read_content,
    read_field,
    read_list,
    read_name,
    read_text,
    with_references,
    write_calls,
)
from dialog_trainer.data.sources.utterance_order import check_order
from dialog_trainer.types import Role, Turn

MAX_TURNS = 100_000  # far above any dialogue, and few enough for the memory that they take
# Different sets of keys that are remembered; a stranger's file may have another set in each row.
MAX_PLANS = 1_000

_USER, _ASSISTANT = (Role.USER, ""), (Role.ASSISTANT, "")
# The role, or the name that the data give it, or None where they give none; the text; the weight if the data give one.
_Part = tuple[NamedRole | str | None, str, float | None]


def alternate_roles(texts: Iterable[str]) -> list[Turn]:
    """Turns of alternating roles: 0, 2, 4 ... are the user's. Raises `RowError` for too many."""
    texts = list(texts)
    _check_number(len(texts))
    return [Turn(Role.ASSISTANT if index % 2 else Role.USER, text) for index, text in enumerate(texts)]


def parse_row(row: object) -> list[Turn]:
    """The turns of one row. Raises `RowError`."""
    return RowParser().parse(row)


class RowParser:
    """Parses the rows of a split, and counts what it does not read.

    Args:
        columns: what a row or turn has -> its key in the data; None: do not read it.
        roles: see `RoleMap`.
    """

    def __init__(self, columns: Mapping[str, str | None] | None = None, roles: Mapping[str, Any] | None = None):
        self._columns, self._roles = dict(columns or {}), RoleMap(roles)
        self._plans: dict[object, Plan] = {}
        self._last_plan: tuple[object, Plan | None] = (None, None)  # a row is looked at twice
        self._unread: Counter[str] = Counter()
        self.by_position = 0  # dialogues whose roles the data do not name
        self._speakers: Counter[str] = Counter()  # counted where `roles` names some
        self._found_columns: set[str] = set()

    def parse(self, row: object) -> list[Turn]:
        """The turns of a row. Raises `RowError` with the place in the row."""
        row = {"turns": row} if isinstance(row, list) else row
        plan = self._plan_row(row)
        assert isinstance(row, dict)
        if plan.form == "utterance":
            return self.parse_utterances([row])
        if plan.form == "list":
            key = plan.keys["turns"]
            may_be_plain = len(plan.keys) == 1 and not plan.flags
            if may_be_plain and (plain := self._parse_plain(row[key], f"{key}[].")) is not None:
                return plain
            turns = self._finish(self._parts(read_list(row[key], repr(key)), key, f"{key}[]."), key == "turns")
        else:
            turns = self._finish(self._pair(row, plan), False)
        if plan.keys.get("references") is not None:
            turns = with_references(turns, row[plan.keys["references"]])
        context = self._context(row, plan)
        if context and not (turns and turns[0].role == Role.SYSTEM and turns[0].text.strip() == context.strip()):
            turns.insert(0, Turn(Role.SYSTEM, context))
        weight = read_flags(row, plan.flags)
        if weight not in (None, 1.0):
            turns = [dataclasses.replace(turn, weight=turn.weight * weight) for turn in turns]
        return turns

    def _parse_plain(self, items: object, prefix: str) -> list[Turn] | None:
        """The turns of a list in which each has a known role, a text and no more: most lists, several times as fast. None
        for any other list."""
        if not isinstance(items, list) or not 0 < len(items) <= MAX_TURNS or not isinstance(items[0], dict):
            return None
        plan = self._plans.get((prefix, tuple(items[0]), ()))
        if plan is None or not plan.is_plain or self._roles.needs_dialogue:
            return None
        role_key, text_key, known = plan.keys["role"], plan.keys["text"], self._roles.known
        turns = []
        for item in items:
            try:
                role, label = known[item[role_key]]
                text = item[text_key]
            except (KeyError, TypeError):
                return None
            if len(item) != 2 or not isinstance(text, str):
                return None
            turns.append(Turn(role, text if text.isascii() else read_text(text), 1.0, (), label))
        plan.count += len(turns)
        return turns

    def find_dialogue(self, row: object) -> str | None:
        """The id of the dialogue of a row that is one utterance, None if the row is a dialogue. Raises `RowError`."""
        plan = None if isinstance(row, list) else self._plan_row(row, count=False)
        return str(row[plan.keys["dialogue"]]) if plan and plan.form == "utterance" else None  # type: ignore[index]

    def parse_utterances(self, rows: Sequence[dict[str, Any]]) -> list[Turn]:
        """The turns of a dialogue that has a row for each of them. Raises `RowError`, also if they are out of order."""
        check_order(rows)
        return self._finish(self._parts(rows, "utterance ", ""), False)

    def knows(self, value: object) -> bool:
        """Whether a value is a row in itself, not something that holds rows."""
        form = self._form_of(value)
        if form != "list" or isinstance(value, list):
            return form is not None
        items = value[self._plan_row(value, count=False).keys["turns"]]  # type: ignore[index]
        return not (
            isinstance(items, list) and items and isinstance(items[0], dict) and self._form_of(items[0]) == "list"
        )

    def _form_of(self, value: object) -> str | None:
        try:
            return "list" if isinstance(value, list) else self._plan_row(value, count=False).form
        except RowError:
            return None

    def skip(self, key: str) -> None:
        """Counts a key around the rows that is not read."""
        self._unread[key[:100]] += 1

    def find_unused(self) -> dict[str, str]:
        """What of `columns` and `roles` is in none of the rows so far, each with its error."""
        keys = {
            field: key for field, key in self._columns.items() if key is not None and field not in self._found_columns
        }
        missing = {field: f"data.columns.{field}: no row has the key {key!r}" for field, key in keys.items()}
        return missing | self._roles.find_unused(self._speakers)

    def unread(self) -> dict[str, int]:
        """The keys that were not read, the most frequent first, each with the number of its rows or turns."""
        self._collect_unread()
        return {key: count for key, count in self._unread.most_common() if count}

    def _plan_row(self, row: object, count: bool = True) -> Plan:
        if not isinstance(row, dict):
            raise RowError(f"expected an object; found {kind_of(row)}")
        plan = self._last_plan[1]
        if row is not self._last_plan[0] or plan is None:
            signature = ("row", tuple(row), tuple(key for key, value in row.items() if value is None))
            plan = self._plans.get(signature)
            if plan is None:
                plan = self._remember(signature, row, plan_row(row, self._columns))
            self._last_plan = row, plan
        plan.count += count and plan.form != "utterance"
        return plan

    def _remember(self, signature: object, item: Mapping[str, Any], plan: Plan) -> Plan:
        self._found_columns |= {field for field, key in self._columns.items() if key in item}
        if len(self._plans) >= MAX_PLANS:
            self._collect_unread()
            self._plans.clear()
        self._plans[signature] = plan
        return plan

    def _collect_unread(self) -> None:
        for plan in self._plans.values():
            for key in plan.unread:
                if len(self._unread) < MAX_PLANS or key in self._unread:
                    self._unread[key] += plan.count
            plan.count = 0

    def _parts(self, items: Sequence[object], place: str, prefix: str) -> list[_Part]:
        _check_number(len(items))
        parts: list[_Part] = []
        for index, item in enumerate(items):
            try:
                if isinstance(item, dict):
                    self._add_item(item, prefix, parts)
                else:
                    parts.append((None, read_text(item), None))
            except RowError as error:
                raise _placed(error, f"{place}[{index}]") from None
        return parts

    def _add_item(self, item: dict[str, Any], prefix: str, parts: list[_Part]) -> None:
        signature = (prefix, tuple(item), tuple(key for key, value in item.items() if value is None))
        plan = self._plans.get(signature)
        if plan is None:
            plan = self._remember(signature, item, plan_item(item, self._columns, prefix))
        plan.count += 1
        weight = read_flags(item, plan.flags) if plan.flags else None
        keys = plan.keys
        if plan.form == "pair":
            parts.append((_USER, read_content(item, keys["prompt"]), weight))
            parts.append((_ASSISTANT, read_content(item, keys["completion"]), weight))
            return
        name = read_name(item[keys["role"]], keys["role"]) if "role" in keys else None
        text = read_content(item, keys["text"]) if "text" in keys else ""
        for key in plan.calls:
            text = "\n".join(part for part in (text, write_calls(item[key], key)) if part)
        parts.append((name, text, weight))

    def _pair(self, row: dict[str, Any], plan: Plan) -> list[_Part]:
        """A question and its answer, after the pairs of `history` if there is one."""
        keys, parts = plan.keys, list[_Part]()
        history = row[keys["history"]] if "history" in keys else None
        for index, pair in enumerate(read_list(history, repr(keys["history"])) if history else []):
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise RowError(f"{keys['history']}[{index}] should be a list of two texts; found {kind_of(pair)}")
            parts += [(_USER, read_text(pair[0]), None), (_ASSISTANT, read_text(pair[1]), None)]
        prompt, completion = row[keys["prompt"]], row[keys["completion"]]
        for key, value, role in ((keys["prompt"], prompt, _USER), (keys["completion"], completion, _ASSISTANT)):
            objects = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
            if any("role" in item or "type" not in item for item in objects):
                said = self._parts(value, key, f"{key}[].")
                if role == _ASSISTANT and said[0][1] == parts[-1][1]:
                    raise RowError(f"{key} begins with the prompt: {format_override('data.columns', {'turns': key})}")
                parts += said
                continue
            text = read_field(row, key)
            extra = row[keys["input"]] if role == _USER and "input" in keys else None
            parts.append((role, f"{text}\n{read_text(extra, keys['input'])}" if extra else text, None))
        return parts

    def _context(self, row: dict[str, Any], plan: Plan) -> str:
        """What stands before the dialogue: the system prompt, and the tools as they are written."""
        found = []
        for field in ("system", "tools"):
            key = plan.keys.get(field)
            if key is not None and field == "tools" and isinstance(row[key], list | dict):
                found.append(json.dumps(row[key], ensure_ascii=False) if row[key] else "")
            elif key is not None and row[key] != "[]":
                found.append(read_field(row, key))
        return "\n".join(text for text in found if text.strip())

    def _finish(self, parts: Sequence[_Part], may_omit_roles: bool) -> list[Turn]:
        """Resolves the roles. Without any name they alternate; `may_omit_roles`: a turn without one has that of its place."""
        names = [name for name, _, _ in parts if isinstance(name, str)]
        resolved = iter(self._roles.resolve(names))
        if names and not may_omit_roles and any(name is None for name, _, _ in parts):
            raise RowError(f"some of its turns name a role and others do not; name each, or {ALTERNATE}")
        self.by_position += not names and any(name is None for name, _, _ in parts)
        turns, unknown = [], []
        for index, (name, text, weight) in enumerate(parts):
            role: NamedRole | None
            if name is None:
                role = _ASSISTANT if index % 2 else _USER
            else:
                role = next(resolved) if isinstance(name, str) else name
            if role is None:
                unknown.append(str(name))
                continue
            if role[0] == Role.SYSTEM and weight not in (None, 0.0):
                raise RowError(
                    f"turn {index} gives a loss weight to a turn of {role[1] or 'the system'}, which is never trained; "
                    "leave it out"
                )
            turns.append(Turn(role[0], text, 1.0 if weight is None else weight, (), role[1]))
        if unknown:
            known = {turn.role for turn in turns} - {Role.SYSTEM}
            message = f"no role is known by the name {unknown[0]!r}; name the roles in data.roles"
            raise UnknownRoleError(message, unknown, known)
        if self._roles.names and (len(self._speakers) < MAX_PLANS or self._roles.names.keys() & self._speakers):
            self._speakers.update(name.strip().lower() for name in names)
        return turns


def _check_number(turns: int) -> None:
    if turns > MAX_TURNS:
        raise RowError(f"has {turns:,} turns, more than {MAX_TURNS:,}; divide it into shorter dialogues")


def _placed(error: RowError, place: str) -> RowError:
    return RowError(f"{place}{error}" if str(error).startswith((".", "[")) else f"{place} {error}")
