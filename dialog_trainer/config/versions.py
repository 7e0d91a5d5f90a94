"""Configurations of earlier versions: old keys, and what a field means for a run saved before it existed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dialog_trainer.config.fields import REQUIRED, Record
from dialog_trainer.config.frozen import set_key, thaw
from dialog_trainer.config.table import group_metas, settings, show
from dialog_trainer.errors import ConfigError

# Old key -> key; read for ever, in saved runs, in config files and on the command line.
ALIASES = {
    **{
        f"metrics.{name}": f"metrics.generation.{name}"
        for name in ("max_new_tokens", "batch_tokens", "decoding", "temperature", "top_p", "beams")
    },
    **{f"chat.{name}": f"chat.generation.{name}" for name in ("temperature", "top_p", "max_new_tokens")},
}


def rename_old_keys(tree: Mapping[str, Any], keep: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A tree of plain values with each old key under its name of today, where it takes the place of another value;
    keys of `keep` are not replaced."""
    renamed: dict[str, Any] = thaw(tree)
    for old, key in ALIASES.items():
        group, name = old.split(".")
        inside = renamed.get(group)
        if isinstance(inside, dict) and name in inside:
            value = inside.pop(name)
            if key not in keep:
                set_key(renamed, key, value)
    return renamed


def upgrade(record: type[Record], tree: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A saved tree as this version reads it. A field that it lacks gets the meaning that it had before it existed.

    `version` is the newest that can be read; raises `ConfigError` for a newer one.
    """
    upgraded = rename_old_keys(tree)
    saved_by = upgraded.pop("schema_version", 1)
    if saved_by == 1 and upgraded.get("validate_every_n_steps", 0) is None:
        upgraded["validate_every_n_steps"] = "epoch"  # what null meant
    if type(saved_by) is not int or not 1 <= saved_by <= version:
        raise ConfigError([f"schema_version={show(saved_by)}: must be a whole number from 1 to {version} here"])
    for key, value in absent_values(record).items():
        *parents, last = key.split(".")
        place: Any = upgraded
        for part in parents:
            place = place.get(part, {}) if isinstance(place, dict) else None
        if isinstance(place, dict) and last not in place:
            set_key(upgraded, key, thaw(value))
    return upgraded


def absent_values(record: type[Record]) -> dict[str, Any]:
    """Dotted key to the meaning of its absence, of the fields that have one."""
    found = {key: setting.meta.when_absent for key, setting in settings(record).items()}
    for prefix, meta in group_metas(record).items():
        if isinstance(meta.when_absent, Mapping):
            found |= {f"{prefix}.{name}": value for name, value in meta.when_absent.items()}
    return {key: value for key, value in found.items() if value is not REQUIRED}
