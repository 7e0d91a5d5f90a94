"""Ranges in words: `a whole number from 1 to 10,000,000`, derived from the annotation of a field."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from dialog_trainer.config.fields import Words

_SPECIAL_VALUE = re.compile(r"(?<!\S)((?:null|[01]): [^.]+)")


def describe(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """The words for what a field may be: `a whole number from 1 to 10,000,000`, `a number above 0 or null`."""
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        return describe(inner, (*own, *metadata))
    flat = tuple(part for item in metadata for part in (getattr(item, "metadata", None) or [item]))
    named = [item.text for item in flat if isinstance(item, Words)]
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        null = " or null" if len(parts) < len(get_args(annotation)) else ""
        return (named[-1] if named else " or ".join(describe(part, metadata) for part in parts)) + null
    if named:
        return named[-1]
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return _describe_list(get_args(annotation)[0])
    simple: dict[Any, Callable[[], str]] = {
        bool: lambda: "true or false",
        int: lambda: f"a whole number {_describe_bounds(flat)}",
        float: lambda: f"a number {_describe_bounds(flat)}",
        str: lambda: "a text that is not empty",
    }
    return simple[annotation]().strip()


def shorten(words: str, description: str) -> str:
    """The words for a range without what the description of the field says already."""
    words = words.replace("a text that is not empty", "a text")
    return words.removesuffix(" or null") if "null" in description else words


def special_values(description: str) -> str:
    """What a description says about one value, in brackets: ` (0: never stop early)`; nothing where it says none."""
    found = "; ".join(_SPECIAL_VALUE.findall(description))
    return f" ({found})" if found else ""


def find_metadata(annotation: Any, kind: type) -> Any:
    """The first item of `kind` in an annotation's metadata, in whatever depth; None without one."""
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        return next((item for item in own if isinstance(item, kind)), None) or find_metadata(inner, kind)
    for part in get_args(annotation):
        found = find_metadata(part, kind)
        if found is not None:
            return found
    return None


def literal_names(annotation: Any) -> tuple[str, ...]:
    """The names that a field, or an item of its list, may have; none for another type."""
    if get_origin(annotation) is Literal:
        return tuple(name for name in get_args(annotation) if isinstance(name, str))
    return tuple(name for part in get_args(annotation) for name in literal_names(part))


def _describe_list(item: Any) -> str:
    names = literal_names(item)
    return f"a list of {', '.join(names)}" if names else "a list of texts"


def _describe_bounds(metadata: tuple[Any, ...]) -> str:
    low = next((item for item in metadata if isinstance(item, (Ge, Gt))), None)
    high = next((item for item in metadata if isinstance(item, (Le, Lt))), None)
    upper = "" if high is None else f"below {high.lt:,}" if isinstance(high, Lt) else f"{high.le:,}"
    if isinstance(low, Gt):
        comma = "" if high is None else ", " if isinstance(high, Lt) else ", to "
        return f"above {low.gt:,}{comma}{upper}"
    if low is None:
        return upper
    return f"of at least {low.ge:,}" if high is None else f"from {low.ge:,} to {upper}"
