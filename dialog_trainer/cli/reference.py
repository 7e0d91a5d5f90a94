"""The page docs/options.md: every option with default, range, meaning and what a resume does with it (`make docs`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dialog_trainer.cli.conf import CONF, list_choices
from dialog_trainer.cli.help import GROUPS, SECTIONS, read_defaults, read_values, settings_of, show_default
from dialog_trainer.config.groups import OpenGroup
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import Setting, groups, own_settings, settings
from dialog_trainer.screen import write

HEAD = """\
# Options

Every option, from the schema and `conf/` (`make docs` writes this page). Type an option as `option=value`, a choice of a group as
`group=choice`. Units are in the meaning. The last column says what `mode=resume` does with another value:

- **exact**: the run goes on exactly, from there on with the new value;
- **inexact**: it goes on, but not exactly as it would have without a stop, and a line says so;
- **refused**: the value belongs to the weights, the optimizer or the place of the run: start a new run from the weights;
- **command**: it belongs to the command, and is not taken from the run.
"""
TABLE_HEAD = ("| option | default | type and range | meaning | resume |", "|---|---|---|---|---|")


def format_reference(conf: Path, choices: Mapping[str, list[str]]) -> str:
    """The page for the options of `conf`, whose groups have these choices."""
    chosen = read_defaults(conf)
    values = read_values(conf, chosen)
    lines = [HEAD]
    for title, keys in SECTIONS.items():
        rows = [_row(settings(Config)[key], show_default(values.get(key))) for key in keys]
        lines += [f"## {title}", "", *TABLE_HEAD, *rows, ""]
    for group, title in GROUPS.items():
        names = choices.get(group, [])
        lines += [f"## {title}", "", *_choices_line(group, names, chosen.get(group)), *TABLE_HEAD]
        lines += [*_group_rows(conf, group, choices, chosen), ""]
    return "\n".join(lines)


def _choices_line(group: str, names: list[str], default: str | None) -> list[str]:
    if names in ([], ["default"]):
        return []
    marked = [f"`{name}` (default)" if name == default else f"`{name}`" for name in names]
    return [f"Choices of `{group}=`: {', '.join(marked)}.", ""]


def _group_rows(conf: Path, group: str, choices: Mapping[str, list[str]], chosen: Mapping[str, str]) -> Iterator[str]:
    """A row for each option of any choice; of several choices with other defaults, each default with its choices."""
    names = choices.get(group, [])
    inner = next((name for name in choices if name.startswith(f"{group}/")), None)
    variants = [{group: name} for name in names] if names else [{}]
    variants += [{inner: name} for name in choices[inner]] if inner else []
    found: dict[str, Setting] = {}
    defaults: dict[str, dict[str, list[str]]] = {}
    for variant in variants:
        values = read_values(conf, {**chosen, **variant})
        for setting in (*settings_of(group, values), *_left_out(group, values)):
            found.setdefault(setting.key, setting)
            shown = show_default(values[setting.key]) if setting.key in values else "not set"
            [name] = variant.values() or [""]
            if inner is None or setting.key.startswith(f"{inner.replace('/', '.')}.") == (inner in variant):
                defaults.setdefault(setting.key, {}).setdefault(shown, []).append(name)
    for key, setting in found.items():
        yield _row(setting, *_defaults(defaults[key], names))


def _left_out(group: str, values: Mapping[str, Any]) -> Iterable[Setting]:
    """The options of the chosen target that may be left out, and that conf/ leaves out."""
    record = groups(Config)[group]
    if not issubclass(record, OpenGroup):
        return []
    own = own_settings(record, group, values.get(f"{group}._target_")) or {}
    return [setting for key, setting in own.items() if key not in values]


def _defaults(by_value: Mapping[str, list[str]], names: list[str]) -> list[str]:
    if len(by_value) == 1:
        [(shown, having)] = by_value.items()
        everywhere = {*having} >= {*names}
        return [shown] if everywhere else [f"{shown} ({', '.join(having)})"]
    return [f"{shown} ({', '.join(having)})" for shown, having in by_value.items()]


def _row(setting: Setting, *defaults: str) -> str:
    shown = "<br>".join(_as_code(default) for default in defaults)
    meaning, resume = _escape(setting.description), _on_resume(setting)
    return f"| `{setting.key}` | {shown} | {_escape(setting.short_range)} | {meaning} | {resume} |"


def _escape(text: str) -> str:
    """A text in which Markdown finds no tag and no end of a cell."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")


def _as_code(default: str) -> str:
    value, space, names = default.partition(" (")
    return f"`{value}`{space}{names}" if value != "not set" else default


def _on_resume(setting: Setting) -> str:
    if setting.meta.per_command:
        return "command"
    if setting.key in ("project", "name"):
        return "refused"
    return "exact" if setting.meta.on_resume == "free" else setting.meta.on_resume


if __name__ == "__main__":
    write(format_reference(CONF, list_choices(None)))
