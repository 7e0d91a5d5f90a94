"""Renders the pages of reports: HTML without outside requests, every text escaped, figures inside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dialog_trainer.screen import printable_lines

_SURROGATES = re.compile("[\ud800-\udfff]")


def render_page(template: str, content: Mapping[str, Any]) -> str:
    """The HTML of a template next to this file. Raises `jinja2.UndefinedError` where `content` lacks a name."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_clean, trim_blocks=True, lstrip_blocks=True
    )


def _clean(value: Any) -> Any:
    """Control characters of a text are written out, and halves of a character replaced, which no file can hold."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable_lines(_SURROGATES.sub("\ufffd", value))
    return value
