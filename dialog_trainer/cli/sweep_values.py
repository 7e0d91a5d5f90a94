"""What a sweep runs over besides typed lists of values: `sweep.list`, and `hydra.sweeper.params` of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from dialog_trainer.cli.overrides import (
    ONLY_PLUGINS,
    OPEN_GROUPS,
    Choices,
    format_value,
    is_hydra,
    parse_overrides,
    typed_targets,
)
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import built_in_targets, settings
from dialog_trainer.errors import ConfigError


def split_repeated(typed: Sequence[Override]) -> tuple[list[Override], list[str]]:
    """What is typed, but for a key that comes again after several values of it, and the errors of these: each of those values
    would give a job, all of them with what comes last."""
    kept: list[Override] = []
    errors = []
    for override in typed:
        before = next(
            (one for one in kept if one.key_or_group == override.key_or_group and one.is_sweep_override()), None
        )
        if before:
            errors.append(
                f"{override.input_line}: {before.input_line} is typed too, and a sweep takes one list of values for each key; "
                f"leave one of them out"
            )
        else:
            kept.append(override)
    return kept, errors


def read_params(composed: DictConfig, typed: Sequence[Override], choices: Choices) -> list[Override]:
    """The overrides of `hydra.sweeper.params`, as of experiment=mask_study; what was typed goes before them.

    Raises `ConfigError` where one cannot be read.
    """
    params = OmegaConf.to_container(composed.hydra.sweeper, resolve=False).get("params")  # type: ignore[union-attr]
    keys = {override.key_or_group for override in typed}
    lines = (
        [f"{key}={value}" for key, value in params.items() if key not in keys] if isinstance(params, Mapping) else []
    )
    found, errors = parse_overrides(lines, choices, sweep=True)
    errors += [f"{one.input_line}: {ONLY_PLUGINS}" for one in found if is_hydra(one)]
    errors += _find_code(found, typed)
    if errors:
        raise ConfigError([f"hydra.sweeper.params: {error}" for error in errors])
    return found


def read_list(composed: DictConfig, typed: Sequence[Override], choices: Choices) -> list[tuple[str, ...]]:
    """The overrides of each entry of `sweep.list`; one entry without any where there is none. Raises `ConfigError`."""
    value = OmegaConf.to_container(composed.sweep, resolve=True).get("list")  # type: ignore[union-attr]
    try:
        entries = settings(Config)["sweep.list"].validate(value)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    lines = [tuple(f"{key}={format_value(item)}" for key, item in entry.items()) for entry in entries]
    found, errors = parse_overrides([line for entry in lines for line in entry], choices, sweep=False)
    errors += [f"{one.input_line}: {ONLY_PLUGINS}" for one in found if is_hydra(one)]
    if not any(override.key_or_group == "sweep.list" for override in typed):
        errors += _find_code(found, typed)
    if errors:
        raise ConfigError([f"sweep.list: {error}" for error in errors])
    return lines or [()]


def _find_code(found: Sequence[Override], typed: Sequence[Override]) -> list[str]:
    """Errors for code that a file would allow: only what is typed on the command line is allowed."""
    built_in = {target for group in OPEN_GROUPS for target in built_in_targets(Config, group)}
    names = sorted(typed_targets(list(found)) - typed_targets(list(typed)) - built_in)
    return [f"to run {name} as code, pass allow_targets=[{name}]" for name in names]
