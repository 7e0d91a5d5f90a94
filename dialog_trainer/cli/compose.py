"""Command line -> validated configurations of new runs: Hydra's composition, with all errors named together."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dialog_trainer.cli.conf import CONF, list_choices
from dialog_trainer.cli.config_folder import (
    check_hydra,
    check_references,
    find_hidden_files,
    record_environment,
    search_path,
)
from dialog_trainer.cli.overrides import (
    DICTS,
    OPEN_GROUPS,
    SETTINGS,
    Choices,
    combinations,
    is_hydra,
    no_option,
    parse_overrides,
    read_override,
    typed_targets,
)
from dialog_trainer.cli.sweep_values import read_list, read_params, split_repeated
from dialog_trainer.config.default_names import resolve_names
from dialog_trainer.config.frozen import FrozenMapping, flatten, set_key
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import built_in_targets, settings, show
from dialog_trainer.config.validation import validate
from dialog_trainer.config.versions import rename_old_keys
from dialog_trainer.errors import ConfigError

MAX_REASON_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Composed:
    """What Hydra composed of a command line, unchecked: a plain tree, the choice of each group, the contents of `.hydra/`,
    and the environment variable of each option that takes its value from one."""

    tree: dict[str, Any]
    choices: dict[str, str]
    hydra_files: FrozenMapping
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class NewRun:
    """The validated configuration of a new run, the contents of its `.hydra/`, notes on what was understood, and its
    overrides."""

    config: Config
    hydra_files: FrozenMapping
    notes: tuple[str, ...]
    overrides: tuple[str, ...]


def compose_runs(overrides: list[str], config_dir: str | None, sweep: bool) -> list[NewRun]:
    """A new run, or each run of a sweep. Raises `ConfigError` with every error of all of them."""
    choices = list_choices(config_dir)
    good, errors = parse_overrides(overrides, choices, sweep)
    good, repeated = split_repeated(good)
    errors += repeated
    runs: list[NewRun] = []
    try:
        entries: list[tuple[str, ...]] = [()]
        if sweep and not errors:
            shared, entries = _read_sweep(good, choices, config_dir)
            good += shared
        for lines in combinations(good, choices, len(entries)):
            for entry in entries:
                try:
                    runs.append(_new_run([*lines, *entry], choices, config_dir))
                except ConfigError as error:
                    errors += error.errors
    except ConfigError as error:
        errors += error.errors
    except ValueError as error:
        errors.append(str(error))
    if errors:
        raise ConfigError(errors)
    return runs


def _read_sweep(
    typed: list[Override], choices: Choices, config_dir: str | None
) -> tuple[list[Override], list[tuple[str, ...]]]:
    """What files sweep over besides what was typed, and the entries of `sweep.list`. Raises `ConfigError`."""
    try:
        composed = compose_config([override.input_line or "" for override in typed], config_dir, RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException):
        return [], [()]  # each run is composed too, and names what is wrong
    return read_params(composed, typed, choices), read_list(composed, typed, choices)


def compose_tree(overrides: list[str], config_dir: str | None) -> Composed:
    """What Hydra composes of these overrides, unchecked; raises Hydra's exceptions, and `ConfigError` for what the files of
    `config_dir` may not hold."""
    config = compose_config(overrides, config_dir)
    with open_dict(config):
        hydra = config.pop("hydra")
        hydra.overrides.task = overrides
    choices = {group: name for group, name in hydra.runtime.choices.items() if isinstance(name, str)}
    files = {"hydra": {"hydra": OmegaConf.to_container(hydra, resolve=False, enum_to_str=True)}, "overrides": overrides}
    environment: dict[str, str] = {}
    with record_environment(environment):
        tree = tree_of(config, overrides)
    return Composed(tree, choices, FrozenMapping(files), environment)


def compose_config(overrides: list[str], config_dir: str | None, mode: RunMode = RunMode.RUN) -> DictConfig:
    """What Hydra composes, with its own node `hydra`; nothing of it is instantiated. Raises as `compose_tree`."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        lines = [*add_dict_prefixes(overrides), *search_path(config_dir)]
        composer = GlobalHydra.instance().hydra
        assert composer is not None
        try:
            config = composer.compose_config("config", lines, mode, from_shell=False)
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            # Hydra asserts that a file is well formed, and follows files that include each other.
            place = f"the files of --config-dir {config_dir} " if config_dir else ""
            raise HydraException(f"{place}cannot be composed ({type(error).__name__}: {first_line(error)})") from None
    if config_dir:
        check_hydra(_plain_hydra(config), _default_hydra(CONF), [read_override(text) for text in overrides], config_dir)
    return config


@cache
def _default_hydra(conf: Path) -> dict[str, Any]:
    """Hydra's own configuration with the defaults of `conf`, which is conf/."""
    return _plain_hydra(compose_config([], None))


def _plain_hydra(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config.hydra, resolve=False, enum_to_str=True)  # type: ignore[return-value]


def tree_of(config: Any, overrides: list[str]) -> dict[str, Any]:
    """The plain tree of what Hydra composed. A typed dict is meant whole, where Hydra merges it into the default one;
    a typed target of the user's own takes no keys of the default choice."""
    check_references(config)
    tree: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    typed = [read_override(text) for text in overrides]
    for override in typed:
        if override.key_or_group in DICTS and isinstance(override.value(), dict):
            set_key(tree, override.key_or_group, override.value())
    drop_untyped_keys(tree, typed)
    return rename_old_keys(tree, frozenset(override.key_or_group for override in typed))


def drop_untyped_keys(tree: Mapping[str, Any], typed: list[Override]) -> None:
    """Removes the own keys of a group's choice where a target of the user's own was typed instead."""
    keys = {override.key_or_group for override in typed}
    for group, target in ((o.key_or_group.removesuffix("._target_"), o.value()) for o in typed):
        if group in OPEN_GROUPS and f"{group}._target_" in keys and target not in built_in_targets(Config, group):
            own = [
                name
                for name in tree[group]
                if name != "_target_" and f"{group}.{name}" not in keys and not _is_common(f"{group}.{name}")
            ]
            for name in own:
                del tree[group][name]


def check(composed: Composed, allowed: set[str]) -> Config:
    """The validated configuration; `allowed` are the dotted names that were typed. Raises `ConfigError`."""
    return validate(resolve_names(composed.tree, composed.choices) | {"allow_targets": sorted(allowed)})


def add_dict_prefixes(overrides: list[str]) -> list[str]:
    """Keys that the defaults lack, with the sign that Hydra asks for: those of a typed dict and of a typed target."""
    parsed = [read_override(text) for text in overrides]
    targets = {
        o.key_or_group.removesuffix("._target_"): o.value() for o in parsed if o.key_or_group.endswith("._target_")
    }
    own = tuple(
        f"{group}."
        for group in OPEN_GROUPS
        if group in targets and targets[group] not in built_in_targets(Config, group)
    )
    return [
        f"++{text}"
        if not override.is_add()
        and not override.is_force_add()
        and (override.key_or_group in DICTS or override.key_or_group.startswith(own))
        else text
        for text, override in zip(overrides, parsed, strict=True)
    ]


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:MAX_REASON_CHARACTERS]


def _is_common(key: str) -> bool:
    return key in settings(Config)


def _new_run(overrides: list[str], choices: Choices, config_dir: str | None) -> NewRun:
    good, errors = parse_overrides(
        overrides, choices, sweep=False
    )  # once more: the values of a sweep are single ones now
    lines = [override.input_line or "" for override in good]
    try:
        composed = compose_tree(lines, config_dir)
    except (HydraException, OmegaConfBaseException):
        # Hydra names one error only: look at each override by itself, next to the chosen groups.
        composed, more = _compose_each(lines, choices, config_dir)
        errors += more
    config = None
    try:
        config = check(composed, typed_targets(good))
    except ConfigError as error:
        errors += error.errors
    mode = composed.tree.get("mode")
    if config is not None and config.command.works_on_saved_run:
        errors.append(f"mode={mode}: works on one saved run; type it by itself, not in a sweep or a file")
    if errors or config is None:
        raise ConfigError(errors)
    notes = collect_notes(composed, typed_targets(good), config_dir)
    return NewRun(config, composed.hydra_files, notes, tuple(lines))


def collect_notes(composed: Composed, allowed: set[str], config_dir: str | None) -> tuple[str, ...]:
    """What was understood of files and environment, and what was not used."""
    notes = find_hidden_files(config_dir)
    if composed.environment:
        read = ", ".join(f"{variable} into {key}" for key, variable in composed.environment.items())
        notes.append(f"read from the environment: {read}; the run keeps the values in its args.yaml")
    unused = [str(name) for name in composed.tree.get("allow_targets") or () if name not in allowed]
    if unused:
        notes.append(f"allow_targets of a file allows nothing ({', '.join(unused)}): type it on the command line")
    return tuple(notes)


def _compose_each(overrides: list[str], choices: Choices, config_dir: str | None) -> tuple[Composed, list[str]]:
    """What the valid overrides compose, and the errors of the others."""
    pairs = [(read_override(text), text) for text in overrides]
    kept = [text for override, text in pairs if override.key_or_group in choices or _is_target(override)]
    try:
        composed = compose_tree(kept, config_dir)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([first_line(error)]) from None
    known = flatten(composed.tree, frozenset(DICTS))
    values, errors = [], []
    for override, text in pairs:
        key = override.key_or_group
        if text in kept:
            continue
        added = override.is_add() or override.is_force_add() or add_dict_prefixes([*kept, text])[-1] != text
        if key in known or added or is_hydra(override):
            values.append(text)
        else:
            errors.append(no_option(override, known, choices, config_dir))
    # A composition takes a tenth of a second: one for all values, and one for each only where that fails.
    if values:
        with contextlib.suppress(HydraException, OmegaConfBaseException):
            return compose_tree([*kept, *values], config_dir), errors
    for text in values:
        try:
            composed = compose_tree([*kept, text], config_dir)
            kept.append(text)
        except (HydraException, OmegaConfBaseException) as error:
            errors.append(f"{show(text)}: {first_line(error)}")
    return composed, errors


def _is_target(override: Override) -> bool:
    return override.key_or_group in SETTINGS and override.key_or_group.endswith("._target_")
