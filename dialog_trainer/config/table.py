"""The settings of a record as a table of dotted keys, and the reading of a tree of values against it.

Every value is validated by itself, so that one error hides no other, and what is valid can be checked further.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Annotated, Any, TypeGuard, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from dialog_trainer.config.fields import FreeText, Later, Meta, OnResume, Record, ScoreList
from dialog_trainer.config.frozen import FrozenMapping, freeze, thaw
from dialog_trainer.config.groups import OpenGroup
from dialog_trainer.config.range_words import describe, find_metadata, literal_names, shorten, special_values

AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class Setting:
    """One option: its dotted key, its type and range, and its metadata."""

    key: str
    annotation: Any
    description: str
    meta: Meta

    @cached_property
    def words(self) -> str:
        """The range in words."""
        return describe(self.annotation)

    @cached_property
    def short_range(self) -> str:
        """The range in words, without what the description says already."""
        return shorten(self.words, self.description)

    @cached_property
    def is_free_text(self) -> bool:
        """Whether the value is a name or path, which is taken as it was typed."""
        return find_metadata(self.annotation, FreeText) is not None

    @cached_property
    def is_score_list(self) -> bool:
        """Whether its names are scores, which the metric registry knows."""
        return find_metadata(self.annotation, ScoreList) is not None

    def validate(self, value: Any) -> Any:
        """The value as the configuration holds it. Raises `ValueError` with the whole message."""
        try:
            return _adapter(self.annotation).validate_python(value)
        except (ValidationError, RecursionError):
            raise ValueError(self.error(value)) from None

    def error(self, value: Any, names: tuple[str, ...] = ()) -> str:
        """The message for a value that is out of range; `names` are those that the value may hold."""
        shown, words = show(value), self.words
        later = find_metadata(self.annotation, Later)
        if later and isinstance(value, str) and value in later.names:
            return f"{self.key}={shown}: is not in this version; use {words}"
        if names and "list" in words:
            words = f"a list of {', '.join(names)}"
        elif names:
            words = f"{words}; scores: {', '.join(names)}"
        names = names or literal_names(self.annotation)
        items = value if isinstance(value, (list, tuple, Mapping)) else [value]
        near = [
            close
            for name in items
            if isinstance(name, str) and name not in names
            for close in difflib.get_close_matches(name, names, n=1)
        ]
        hint = f"; did you mean {' and '.join(near)}?" if near else ""
        if type(value) in (int, float) and "text" in words:
            hint = "; to pass a number as a text, quote it twice: \"'1'\""
        elif type(value) is float and value.is_integer() and "whole number" in words:
            hint = f"; write {value:.0f}"
        elif isinstance(value, (list, tuple)) and self.key.endswith("data_path"):
            hint = "; for several files, the folder that holds them, or a pattern such as 'chats/*.json'"
        return f"{self.key}={shown}: must be {words}{special_values(self.description)}{hint}"


@dataclass(slots=True)
class Reading:
    """The valid values of a tree by dotted key, the wrong ones, and the messages for those, by key."""

    values: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, Any] = field(default_factory=dict)
    invalid: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> list[str]:
        return list(self.invalid.values())


@cache
def settings(record: type[Record], prefix: str = "") -> dict[str, Setting]:
    """The settings of a record and the records inside, without the own keys of targets."""
    found: dict[str, Setting] = {}
    for name, info in record.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        if _is_record(info.annotation):
            inner = settings(info.annotation, f"{key}.")
            found |= {inside: _inherit(setting, _meta(info)) for inside, setting in inner.items()}
        elif not (issubclass(record, OpenGroup) and name == "arguments"):
            found[key] = Setting(key, _annotation(info), info.description or "", _meta(info))
    return found


@cache
def groups(record: type[Record], prefix: str = "") -> dict[str, type[Record]]:
    """The records inside a record by dotted key."""
    found: dict[str, type[Record]] = {}
    for name, info in record.model_fields.items():
        if _is_record(info.annotation):
            key, inner = f"{prefix}{name}", info.annotation
            found |= {key: inner, **groups(inner, f"{key}.")}
    return found


@cache
def group_metas(record: type[Record], prefix: str = "") -> dict[str, Meta]:
    """What the schema says about the records inside a record, by dotted key."""
    found: dict[str, Meta] = {}
    for name, info in record.model_fields.items():
        if _is_record(info.annotation):
            found |= {f"{prefix}{name}": _meta(info)}
            found |= group_metas(info.annotation, f"{prefix}{name}.")
    return found


def built_in_targets(record: type[Record], group: str) -> tuple[str, ...]:
    """The targets of an open group that need no permission; none of another group."""
    found = groups(record).get(group)
    return tuple(found.TARGETS) if found and issubclass(found, OpenGroup) else ()


def own_settings(group: type[OpenGroup], key: str, target: object) -> dict[str, Setting] | None:
    """The settings of a built-in target; None for a target of the user's own."""
    if target is None:
        return {}
    known = group.TARGETS.get(target) if isinstance(target, str) else None
    return None if known is None else settings(known, f"{key}.")


@cache
def all_settings(record: type[Record]) -> dict[str, Setting]:
    """The settings of a record with those of all built-in targets; of keys that several have, the first."""
    found = dict(settings(record))
    for key, group in groups(record).items():
        if issubclass(group, OpenGroup):
            for target in group.TARGETS:
                for name, setting in (own_settings(group, key, target) or {}).items():
                    found.setdefault(name, setting)
    return found


def on_resume(record: type[Record], key: str) -> OnResume:
    """What a change of a key means for a resumed run; keys of the user's own targets included."""
    known = all_settings(record).get(key)
    if known:
        return known.meta.on_resume
    group = groups(record).get(key.split(".")[0])
    return group.OWN_ON_RESUME if group and issubclass(group, OpenGroup) else "free"


def read(record: type[Record], tree: Mapping[str, Any]) -> Reading:
    """Validates every value of a tree by itself."""
    reading = Reading()
    _read(record, tree, "", reading)
    return reading


def construct(record: type[AnyRecord], values: Mapping[str, Any], prefix: str = "") -> AnyRecord:
    """The record of valid values by dotted key."""
    parts: dict[str, Any] = {}
    for name, info in record.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        if _is_record(info.annotation):
            parts[name] = construct(info.annotation, values, f"{key}.")
        elif key in values:
            parts[name] = values[key]
    if issubclass(record, OpenGroup):
        common = settings(record, prefix)
        own = {key: value for key, value in values.items() if key.startswith(prefix) and key not in common}
        parts["arguments"] = FrozenMapping({key.removeprefix(prefix): value for key, value in own.items()})
    return record.model_validate(parts)


def values_of(record: Record, prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values; what was left out is left out here."""
    found: dict[str, Any] = {}
    for name, info in type(record).model_fields.items():
        value, key = getattr(record, name), f"{prefix}{info.alias or name}"
        if isinstance(value, Record):
            found |= values_of(value, f"{key}.")
        elif isinstance(record, OpenGroup) and name == "arguments":
            found |= {f"{prefix}{own}": item for own, item in value.items()}
        elif not (_meta(info).optional and value is None):
            found[key] = value
    return found


def show(value: object) -> str:
    """A value as a message shows it: null for None, and not more than a line of it."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(thaw(value))
    return text if len(text) <= 200 else f"{text[:200]}..."


def _read(record: type[Record], tree: Mapping[str, Any], prefix: str, reading: Reading) -> None:
    known: set[str] = set()
    for name, info in record.model_fields.items():
        key, alias = f"{prefix}{info.alias or name}", info.alias or name
        if _is_record(info.annotation):
            known.add(alias)
            inner = tree.get(alias)
            if isinstance(inner, Mapping):
                _read(info.annotation, inner, f"{key}.", reading)
            elif inner is None:
                reading.invalid[key] = f"{key}: is missing"
            else:
                reading.invalid[key] = f"{key}={show(inner)}: must be a dict of options"
        elif not (issubclass(record, OpenGroup) and name == "arguments"):
            known.add(alias)
            _read_value(settings(record, prefix)[key], tree, alias, reading)
    own: dict[str, Setting] | None = {}
    if issubclass(record, OpenGroup):
        own = own_settings(record, prefix.rstrip("."), tree.get("_target_"))
        for key, setting in (own or {}).items():
            known.add(key.removeprefix(prefix))
            _read_value(setting, tree, key.removeprefix(prefix), reading)
    for alias in (name for name in tree if name not in known):
        key = f"{prefix}{alias}"
        if own is None and isinstance(alias, str):
            reading.values[key] = freeze(tree[alias])
        else:
            takes = ", ".join(name.removeprefix(prefix) for name in own or {})
            hint = f"; {tree.get('_target_')} takes {takes or 'no option of its own'}" if "_target_" in known else ""
            reading.invalid[key] = (
                f"{key}={show(tree[alias])}: there is no such option{hint}{_name_owners(record, key)}"
            )


def _name_owners(record: type[Record], key: str) -> str:
    """The built-in targets of a group that take a key."""
    group, _, _ = key.rpartition(".")
    targets = record.TARGETS if issubclass(record, OpenGroup) else ()
    names = [name.rpartition(".")[2] for name in targets if key in (own_settings(record, group, name) or ())]  # type: ignore[arg-type]
    return f"; {' and '.join(names)} take it" if names else ""


def _read_value(setting: Setting, tree: Mapping[str, Any], alias: str, reading: Reading) -> None:
    if alias not in tree:
        if not setting.meta.optional:
            every = "; every choice of its group has it" if "." in setting.key else ""
            reading.invalid[setting.key] = f"{setting.key}: is missing{every}"
        return
    try:
        reading.values[setting.key] = setting.validate(tree[alias])
    except ValueError as error:
        reading.invalid[setting.key], reading.wrong[setting.key] = str(error), tree[alias]


def _inherit(setting: Setting, outer: Meta) -> Setting:
    """A setting inside a record that as a whole belongs to the command belongs to it too."""
    if not outer.per_command or setting.meta.per_command:
        return setting
    inner = setting.meta
    meta = Meta(inner.on_resume, inner.when_absent, True, inner.optional)
    return Setting(setting.key, setting.annotation, setting.description, meta)


def _meta(info: FieldInfo) -> Meta:
    extra = info.json_schema_extra
    found = extra.get("meta") if isinstance(extra, dict) else None
    return found if isinstance(found, Meta) else Meta()


def _annotation(info: FieldInfo) -> Any:
    annotation: Any = info.annotation
    if _meta(info).optional:  # None stands for its absence, and is no value
        [annotation] = [part for part in get_args(annotation) if part is not type(None)]
    return Annotated[(annotation, *info.metadata)] if info.metadata else annotation


def _is_record(annotation: Any) -> TypeGuard[type[Record]]:
    return isinstance(annotation, type) and issubclass(annotation, Record)


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)
