"""The comment of an option in `conf/` and its line in `--help`: description and range, both from the schema."""

from __future__ import annotations

import textwrap

from dialog_trainer.config.table import Setting

WIDTH = 120


def comment_of(setting: Setting) -> str:
    """One line: the description, and the range in brackets."""
    return f"{setting.description} [{short_range(setting)}]"


def short_range(setting: Setting) -> str:
    """The range in words, without what the description says already."""
    words = setting.words.replace("a text that is not empty", "a text")
    return words.removesuffix(" or null") if "null" in setting.description else words


def yaml_comment(setting: Setting, indent: int = 0) -> list[str]:
    """The comment as lines above an option in a YAML file."""
    start = " " * indent + "# "
    return textwrap.wrap(
        comment_of(setting),
        WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )
