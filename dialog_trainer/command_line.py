"""Options as a user types them: quoted for Hydra where needed, and around all of it for the shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

_KEYWORDS = ("null", "true", "false", "nan", "inf")  # Hydra reads them as values, in upper case too


def format_override(key: str, value: object) -> str:
    """`key=value`; `value` is a text, or a mapping from plain names to texts: `'data.roles={assistant: Monica}'`.

    Raises nothing: any text can be quoted.
    """
    if isinstance(value, Mapping):
        items = (f"{name}: {text if is_plain(text) else _quote(text)}" for name, text in value.items())
        return quote_for_shell(f"{key}={{{', '.join(items)}}}")
    text = str(value)
    # A text without a slash may be read as something else: 12, null, true.
    is_path = "/" in text and re.fullmatch(r"[\w./+-]+", text)
    return quote_for_shell(f"{key}={text if is_path else _quote(text)}")


def is_plain(name: str) -> bool:
    """Whether Hydra reads a name in a dict as that text, without quotes."""
    return re.fullmatch(r"[A-Za-z_][\w.-]*", name, re.ASCII) is not None and name.lower() not in _KEYWORDS


def quote_for_shell(argument: str) -> str:
    """One word for the shell, in single or double quotes, whichever leaves it readable."""
    if "'" in argument and not re.search(r'["$`\\!]', argument):
        return f'"{argument}"'
    return shlex.quote(argument)


def _quote(text: str) -> str:
    """A text for Hydra's grammar. A backslash is special before a quote only."""
    return "'" + re.sub(r"(\\+)(?='|\Z)", r"\1\1", text).replace("'", "\\'") + "'"
