"""Hydra's overrides as typed: quoting, old keys, errors of form, and the values of a sweep."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from dialog_trainer.cli.conf import choices_with
from dialog_trainer.cli.places import DOTTED_KEYS
from dialog_trainer.config.commands import is_dotted
from dialog_trainer.config.groups import OpenGroup
from dialog_trainer.config.hints import MODES, hint_for_choice, hint_for_key
from dialog_trainer.config.launchers import LAUNCHERS
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import all_settings, groups, show
from dialog_trainer.config.versions import ALIASES
from dialog_trainer.errors import ConfigError

Choices = dict[str, list[str]]
SETTINGS = all_settings(Config)
OPEN_GROUPS = tuple(key for key, record in groups(Config).items() if issubclass(record, OpenGroup))
# Options that hold a dict: a typed one is meant whole.
DICTS = ("metrics.best", "data.columns", "data.roles", "data.splits")
MAX_JOBS = 1000
MAX_OVERRIDES = 1000
MAX_CHARACTERS = 4000
MAX_DEPTH = 20
# A text that Hydra reads as itself without quotes.
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_KEYWORDS = ("true", "false", "null", "inf", "nan")
# What of Hydra's own configuration a user may set.
_HYDRA_OPTIONS = ("hydra/launcher", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper.")
ONLY_PLUGINS = "of Hydra's own, only hydra/launcher and hydra/sweeper can be set; see project, name"
_SEVERAL = "several values need -m; to pass a list, write [a,b]; to pass a text with a comma, quote it"


def prepare_overrides(overrides: list[str]) -> list[str]:
    """The overrides as Hydra reads them: paths and names quoted where its grammar asks for it, old keys under their
    names of today, a dict for a group as one override for each of its keys. Raises `ConfigError` for too many."""
    if len(overrides) > MAX_OVERRIDES:
        raise ConfigError([f"{len(overrides):,} options were typed; a command takes at most {MAX_OVERRIDES:,}"])
    return [line for text in overrides for line in _spread(_renamed(_quoted(text)))]


def quote_text(value: object) -> str:
    """The value as a text for Hydra's grammar."""
    return QuotedString(str(value), Quote.single).with_quotes()


def format_value(value: Any) -> str:
    """A plain value in Hydra's grammar; a text is quoted where it would be read as something else."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{format_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(format_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    is_plain = isinstance(value, int | float) or (_PLAIN.fullmatch(str(value)) and str(value).lower() not in _KEYWORDS)
    return str(value) if is_plain else quote_text(value)


def parse_overrides(overrides: list[str], choices: Choices, sweep: bool) -> tuple[list[Override], list[str]]:
    """The overrides that can be read, and the errors of the others; several values for a key are for a `sweep` only."""
    good, errors = [], []
    for text in overrides:
        override = _read(text)
        if override is None:
            errors.append(f"{show(text)}: {_unreadable(text)}")
            continue
        error = _form_error(override, choices)
        if override.is_sweep_override() and not sweep:
            error = _SEVERAL
        if error:
            errors.append(f"{show(text)}: {error}")
        else:
            good.append(override)
    return good, errors


def combinations(overrides: list[Override], choices: Choices, factor: int = 1) -> Iterator[tuple[str, ...]]:
    """The overrides of each job of a sweep, `factor` times as many in all. Raises `ValueError` with the message if there
    are too many."""
    counts = [_count(override, choices) for override in overrides]
    empty = [str(override.input_line) for override, count in zip(overrides, counts, strict=True) if not count]
    if empty:
        raise ValueError(f"{empty[0]}: has no values, so that there are no jobs")
    total = factor * math.prod(counts)
    if total > MAX_JOBS:
        raise ValueError(f"-m: {total:,} jobs; a sweep has at most {MAX_JOBS:,}: list fewer values")
    return itertools.product(*(_variants(override, choices) for override in overrides))


def typed_targets(overrides: list[Override]) -> set[str]:
    """The dotted names that the command line gives: to type one is permission to run its code."""
    found: set[str] = set()
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if isinstance(value, str) and (key.endswith("._target_") or (key in DOTTED_KEYS and is_dotted(value))):
            found.add(value)
        if key in ("metrics.extra", "allow_targets") and isinstance(value, list):
            found |= {item for item in value if isinstance(item, str)}
    return found


def no_option(override: Override, known: Iterable[str], choices: Choices, config_dir: str | None) -> str:
    """The error of a key that is not there; `known` are the keys that are."""
    key = override.key_or_group
    having = choices_with(key, choices, config_dir)
    if having:
        hint = f"; {' or '.join(having)} has it"
    else:
        hint = (
            f"; to add it, write +{override.input_line}" if key in SETTINGS else hint_for_key(key, [*known, *choices])
        )
    return f"{override.input_line}: there is no option {key}{hint}"


def is_hydra(override: Override) -> bool:
    return override.key_or_group.startswith(("hydra.", "hydra/"))


def in_open_group(key: str) -> bool:
    return key.startswith(tuple(f"{group}." for group in OPEN_GROUPS))


@functools.lru_cache(maxsize=MAX_JOBS)
def read_override(text: str) -> Override:
    """The override that Hydra's grammar reads; raises Hydra's exceptions. Kept: a command asks for each several times,
    and the parser is slow."""
    return OverridesParser.create().parse_override(text)


def _read(text: str) -> Override | None:
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        override = read_override(text)
    except (HydraException, ValueError, RecursionError):  # a number of thousands of digits, as many brackets
        return None
    return override if override.key_or_group else None


def _unreadable(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        return f"cannot be read; a value may have at most {MAX_CHARACTERS:,} characters, and this has {len(text):,}"
    if text in MODES:
        return f"write mode={text} (-m is a sweep here)"
    return "cannot be read; write key=value, and quote a value with spaces or signs: 'key=\"a value\"'"


def _quoted(text: str) -> str:
    """A path or name that Hydra cannot read as it is (`=`, quotes, Korean), or whose outer blanks it would cut, in quotes.
    A value with a comma stays as it is: it may be meant as a list."""
    key, _, value = text.partition("=")
    setting = SETTINGS.get(key)
    free = setting.is_free_text if setting else in_open_group(key)
    if not value or not free or "," in value:
        return text
    override = _read(text)
    cut = override is not None and isinstance(override.value(), str) and value != value.strip()
    return f"{key}={quote_text(value)}" if override is None or (cut and value.strip()[0] not in "'\"") else text


def _renamed(text: str) -> str:
    key, equals, value = text.partition("=")
    bare = key.lstrip("+~")
    sign = key[: len(key) - len(bare)]
    return f"{sign}{ALIASES[bare]}{equals}{value}" if bare in ALIASES else text


def _spread(text: str) -> list[str]:
    override = _read(text) if "={" in text else None
    if override is None or override.is_sweep_override() or override.key_or_group not in groups(Config):
        return [text]
    value = override.value()
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        return [text]
    lines = (
        _renamed(f"{override.get_key_element()}.{key}={Override._get_value_element_as_str(item)}")
        for key, item in value.items()
    )
    return [line for inner in lines for line in _spread(inner)]


def _form_error(override: Override, choices: Choices) -> str | None:
    key = override.key_or_group
    if is_hydra(override):
        return _hydra_error(override)
    if key.count(".") > MAX_DEPTH or _is_deep(override.value()):
        return f"a key has at most {MAX_DEPTH} dots, and a value at most {MAX_DEPTH} lists or dicts in each other"
    if override.package is not None:
        return "a group cannot be put into another place with @"
    if override.is_delete():
        return "an option cannot be removed; set it to another value"
    if override.is_sweep_override() and not override.is_discrete_sweep() and not _is_glob(override):
        return "is not a discrete sweep; list the values as a,b or as range(start,stop,step)"
    if _is_glob(override) and not list(_variants(override, choices)):
        return "fits no choice of a group"
    if override.is_add() and not in_open_group(key):
        return f"a key can be added to {', '.join(OPEN_GROUPS)} only{hint_for_key(key, SETTINGS)}"
    if key in choices and not override.is_sweep_override():
        value = override.value()
        if value not in choices[key]:
            there = ", ".join(choices[key])
            return f"{key} has no such choice; there are {there}{hint_for_choice(key, value, choices[key])}"
    return None


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        lists = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        level = [inner for items in lists for inner in items]
    return bool(level)


def _hydra_error(override: Override) -> str | None:
    key = override.key_or_group
    if not key.startswith(_HYDRA_OPTIONS):
        # Anything else would move, or write, what belongs to the run folder and is claimed after all checks.
        return ONLY_PLUGINS
    if override.is_delete() or override.is_sweep_override() or override.package is not None:
        return "Hydra's own options can be set to one value only"
    if key.endswith("._target_") or ("/" in key and not isinstance(override.value(), str)):
        return "takes a name, as hydra/launcher=local"
    if key == "hydra/launcher" and override.value() not in LAUNCHERS:
        return (
            "is not used here, where a sweep must survive what stops it; hydra/launcher=local runs its jobs on this "
            "machine, hydra.launcher.n_jobs of them at a time, and hydra/launcher=submitit_slurm submits them to Slurm"
        )
    if key == "hydra/sweeper" and override.value() != "basic":
        return (
            "is not used here: a sweep compares the values that are listed. To search for values, call "
            "dialog_trainer from a program of the sweeper"
        )
    return None


def _is_glob(override: Override) -> bool:
    return isinstance(override.value(), Glob)


def _count(override: Override, choices: Choices) -> int:
    """How many values a sweep over this key has; found without making them."""
    value: Any = override.value()
    if is_hydra(override) or not override.is_sweep_override():
        return 1
    if isinstance(value, RangeSweep):
        try:
            start, stop, step = float(value.start or 0), float(value.stop or 0), float(value.step)
            return max(0, math.ceil((stop - start) / step))
        except (ArithmeticError, ValueError):  # no step, or endless
            return MAX_JOBS + 1
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    return len(list(_variants(override, choices)))


def _variants(override: Override, choices: Choices) -> Iterator[str]:
    """The override itself, or one for each value of its sweep."""
    if is_hydra(override) or not override.is_sweep_override():
        return iter([override.input_line or ""])
    value = override.value()
    if isinstance(value, Glob):
        names = [
            name
            for name in choices.get(override.key_or_group, [])
            if any(fnmatch.fnmatch(name, pattern) for pattern in value.include)
            and not any(fnmatch.fnmatch(name, pattern) for pattern in value.exclude)
        ]
    else:
        names = list(override.sweep_string_iterator())
    return (f"{override.get_key_element()}={name}" for name in names)
