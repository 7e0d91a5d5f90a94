"""Immutable values: lists become tuples and dicts become `FrozenMapping`; `thaw` gives plain lists and dicts back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class FrozenMapping(Mapping[str, Any]):
    """A mapping that nothing can change. Equal to any mapping with the same items."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items = {key: freeze(value) for key, value in (items or {}).items()}

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(thaw(self._items))


def freeze(value: Any) -> Any:
    """The same value, immutable all the way down."""
    if isinstance(value, Mapping):
        return value if isinstance(value, FrozenMapping) else FrozenMapping(value)
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    return value


def thaw(value: Any) -> Any:
    """The same value as plain dicts and lists, as YAML and JSON hold it."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [thaw(item) for item in value]
    return value


def flatten(tree: Mapping[str, Any], leaves: frozenset[str] = frozenset(), prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values. A mapping at a key of `leaves` stays whole."""
    items: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in leaves:
            items |= flatten(value, leaves, f"{name}.")
        else:
            items[name] = value
    return items


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in nested dicts; a value in the place of a dict is replaced."""
    *parents, last = key.split(".")
    for part in parents:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested dicts."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        set_key(tree, key, value)
    return tree
