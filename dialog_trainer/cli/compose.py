"""Command line -> settings of a new run: Hydra's composition, with all faults named together."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dialog_trainer.config.checks import find_errors
from dialog_trainer.config.options import DICTS, FREE_TEXTS, MODES_ON_A_RUN, OPEN_GROUPS, RULES, Settings, flatten
from dialog_trainer.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
# In a checkout conf/ lies beside the package, in a wheel inside it.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf" / "config.yaml").is_file() else _PACKAGE.parent / "conf"
# What of Hydra's own configuration a user may set.
_HYDRA_OPTIONS = ("hydra/launcher", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper.")
Groups = dict[str, list[str]]


def quote_overrides(overrides: list[str]) -> list[str]:
    """The overrides as typed; a path or name that Hydra cannot read as it is (`=`, quotes, Korean) is quoted for it.

    A value with a comma stays as it is: it may be meant as a list.
    """
    return [_quoted(text) for text in overrides]


def quote_text(value: object) -> str:
    """The value as a text for Hydra's grammar."""
    return QuotedString(str(value), Quote.single).with_quotes()


def parse_overrides(overrides: list[str], known_groups: Groups, sweep: bool) -> tuple[list[Override], list[str]]:
    """The overrides that can be read, and the faults of the others; several values for a key are for a `sweep` only."""
    good, faults = [], []
    for text in overrides:
        override = _read(text)
        if override is None:
            faults.append(
                f"{text}: cannot be read; write key=value, and quote a value with spaces or signs: 'key=\"a value\"'"
            )
            continue
        fault = _form_fault(override, known_groups)
        if override.is_sweep_override() and not sweep:
            fault = "several values need -m; to pass a list, write [a,b]; to pass a text with a comma, quote it"
        if fault:
            faults.append(f"{text}: {fault}")
        else:
            good.append(override)
    return good, faults


def compose_jobs(overrides: list[str], config_dir: str | None, sweep: bool) -> list[Settings]:
    """The settings of a new run, or of each run of a sweep. Raises `ConfigError` with every fault of all of them."""
    known_groups = list_groups(config_dir)
    good, found = parse_overrides(overrides, known_groups, sweep)
    settings = []
    for combination in itertools.product(*(_variants(override, known_groups) for override in good)):
        try:
            settings.append(_job(list(combination), known_groups, config_dir))
        except ConfigError as error:
            found += error.errors
    if found:
        raise ConfigError(found)
    return settings


def add_dict_prefixes(overrides: list[str]) -> list[str]:
    """A typed dict may bring keys that the default one lacks, which Hydra asks to be said with `++`."""
    starts = tuple(f"{key}=" for key in DICTS)
    return [f"++{text}" if text.startswith(starts) else text for text in overrides]


def to_settings(config: Any, overrides: list[str]) -> Settings:
    """Plain settings of what Hydra composed. A typed dict is meant whole, where Hydra merges it into the default one."""
    settings = OmegaConf.to_container(config, resolve=True)
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group in DICTS and isinstance(override.value(), dict):
            set_key(settings, override.key_or_group, override.value())
    return settings


def compose_settings(overrides: list[str], config_dir: str | None) -> Settings:
    """What Hydra composes of these overrides, unchecked; raises Hydra's exceptions."""
    search = [f"hydra.searchpath=[{quote_text(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []
    overrides = add_dict_prefixes(overrides)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", overrides=[*overrides, *search])
    return to_settings(config, overrides)


def list_groups(config_dir: str | None) -> Groups:
    """The groups that a user chooses from, with their choices."""
    found: dict[str, set[str]] = {}
    for root in filter(None, (CONF, config_dir)):
        for path in Path(root).glob("*/*.yaml"):
            if path.parent.name != "hydra":
                found.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(names) for group, names in found.items()}


def suggest(name: str, known: list[str]) -> str:
    """A hint at what was meant: the same last part elsewhere, else what is spelt most alike."""
    close = [key for key in known if key.split(".")[-1] == name.split(".")[-1]]
    close = (close or difflib.get_close_matches(name, known, n=2, cutoff=0.6))[:2]
    return f"; did you mean {' or '.join(close)}?" if close else "; --cfg job shows all options"


def unknown_option(override: Override, known: list[str]) -> str:
    """The fault of a key that is not there."""
    key = override.key_or_group
    hint = "; another choice of its group has it" if key in RULES else suggest(key, known)
    return f"{override.input_line}: there is no option {key}{hint}"


def is_hydra(override: Override) -> bool:
    return override.key_or_group.startswith(("hydra.", "hydra/"))


def in_open_group(key: str) -> bool:
    return key.startswith(tuple(f"{group}." for group in OPEN_GROUPS))


def set_key(settings: Settings, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        settings = settings.setdefault(part, {})
    settings[last] = value


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _read(text: str) -> Override | None:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    return override if override.key_or_group else None


def _quoted(text: str) -> str:
    key, _, value = text.partition("=")
    if not value or key not in FREE_TEXTS or "," in value or _read(text):
        return text
    return f"{key}={quote_text(value)}"


def _form_fault(override: Override, known_groups: Groups) -> str | None:
    key = override.key_or_group
    if is_hydra(override):
        # Anything else would move, or write, what belongs to the run folder and is claimed after all checks.
        open_ = key.startswith(_HYDRA_OPTIONS)
        return None if open_ else "of Hydra's own, only hydra/launcher and hydra/sweeper can be set; see project, name"
    if override.package is not None:
        return "a group cannot be put into another place with @"
    if override.is_delete():
        return "an option cannot be removed; set it to another value"
    if override.is_sweep_override() and not override.is_discrete_sweep() and not _is_glob(override):
        return "cannot be counted out; list the values as a,b or as range(start,stop,step)"
    if _is_glob(override) and not list(_variants(override, known_groups)):
        return "fits no choice of a group"
    if override.is_add() and not in_open_group(key):
        return f"a key can be added to {', '.join(OPEN_GROUPS)} only{suggest(key, list(RULES))}"
    if key in known_groups and not override.is_sweep_override():
        name = override.value()
        if name not in known_groups[key]:
            return f"{key} has no such choice; there are {', '.join(known_groups[key])}"
    return None


def _job(overrides: list[str], known_groups: Groups, config_dir: str | None) -> Settings:
    good, found = parse_overrides(
        overrides, known_groups, sweep=False
    )  # once more: the values of a sweep are single ones now
    overrides = [override.input_line for override in good]
    try:
        settings = compose_settings(overrides, config_dir)
    except (HydraException, OmegaConfBaseException):
        # Hydra names one fault only: look at each override by itself, beside the chosen groups.
        settings, more = _each(overrides, known_groups, config_dir)
        found += more
    found += find_errors(settings)
    if settings["mode"] in MODES_ON_A_RUN:
        found.append(f"mode={settings['mode']}: works on one saved run; type it by itself, not in a sweep or a file")
    if found:
        raise ConfigError(found)
    return settings


def _each(overrides: list[str], known_groups: Groups, config_dir: str | None) -> tuple[Settings, list[str]]:
    """What the faultless overrides compose, and the faults of the others."""
    pairs = [(OverridesParser.create().parse_override(text), text) for text in overrides]
    kept = [text for override, text in pairs if override.key_or_group in known_groups]
    try:
        known = flatten(compose_settings(kept, config_dir))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([first_line(error)]) from None
    found = []
    for override, text in pairs:
        if override.key_or_group in known_groups:
            continue
        if override.key_or_group not in known and not override.is_add() and not is_hydra(override):
            found.append(unknown_option(override, [*known, *known_groups]))
            continue
        try:
            compose_settings([*kept, text], config_dir)
            kept.append(text)
        except (HydraException, OmegaConfBaseException) as error:
            found.append(f"{text}: {first_line(error)}")
    return compose_settings(kept, config_dir), found


def _is_glob(override: Override) -> bool:
    return isinstance(override.value(), Glob)


def _variants(override: Override, known_groups: Groups) -> Iterator[str]:
    """The override itself, or one for each value of its sweep."""
    if is_hydra(override) or not override.is_sweep_override():
        return iter([override.input_line])
    value = override.value()
    if _is_glob(override):
        names = [
            name
            for name in known_groups.get(override.key_or_group, [])
            if any(fnmatch.fnmatch(name, pattern) for pattern in value.include)
            and not any(fnmatch.fnmatch(name, pattern) for pattern in value.exclude)
        ]
    else:
        names = list(override.sweep_string_iterator())
    return (f"{override.get_key_element()}={name}" for name in names)
