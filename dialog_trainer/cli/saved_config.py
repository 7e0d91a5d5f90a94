"""The configuration of a saved run as the base of mode=resume, validate and chat, with what was typed applied to it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dialog_trainer.cli import compose
from dialog_trainer.cli.conf import GLOBAL_GROUPS, list_choices, read_choice
from dialog_trainer.cli.overrides import (
    DICTS,
    Choices,
    in_open_group,
    is_hydra,
    no_option,
    parse_overrides,
    quote_text,
    typed_targets,
)
from dialog_trainer.cli.plain_yaml import MAX_BYTES, load_plain
from dialog_trainer.config.commands import BUILT_IN, find_command, is_dotted
from dialog_trainer.config.frozen import flatten, set_key
from dialog_trainer.config.job import Job
from dialog_trainer.config.machine import PER_MACHINE
from dialog_trainer.config.paths import with_absolute_data_paths
from dialog_trainer.config.schema import SCHEMA_VERSION, Config
from dialog_trainer.config.table import all_settings, groups, on_resume, read, show
from dialog_trainer.config.validation import validate
from dialog_trainer.config.versions import upgrade
from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.files import read_bounded, why_no_folder
from dialog_trainer.tracking.run_directory import IDENTITY

_SETTINGS = all_settings(Config)


def find_mode(overrides: list[str]) -> str | None:
    """The mode that was typed, if it is one that works on a saved run."""
    good, _ = parse_overrides(overrides, {}, sweep=True)
    typed = [override.value() for override in good if override.key_or_group == "mode"]
    mode = str(typed[-1]) if typed else ""
    known = mode in BUILT_IN or is_dotted(mode)  # to type a dotted name is permission to import it
    return mode if known and find_command(mode).works_on_saved_run else None


def inexact_changes(changes: Iterable[tuple[str, str, str]]) -> list[str]:
    """The changed keys under which training continues, but not exactly as the run would have."""
    return [key for key, _, _ in changes if on_resume(Config, key) == "inexact"]


def load_changed_job(overrides: list[str], config_dir: str | None) -> Job:
    """The job of a mode that works on a saved run. Raises `ConfigError` with all errors, or `CheckpointError`.

    A typed value sets its key; a typed group brings what is its own, and keeps what all its choices share; nothing else of
    today's `conf/` comes in.
    """
    choices = list_choices(config_dir)
    typed, errors = parse_overrides(overrides, choices, sweep=False)
    errors += [f"{o.input_line}: is Hydra's, which only starts new runs" for o in typed if is_hydra(o)]
    errors += [
        f"{override.input_line}: the run stays in its folder; leave it out"
        for override in typed
        if override.key_or_group in ("project", "name")
    ]
    errors += [
        f"{override.input_line}: a reference (${{...}}) has no meaning on a saved run; type the value"
        for override in typed
        if "${" in str(override.input_line)
    ]
    typed = [override for override in typed if not is_hydra(override)]
    folder = next((o.value() for o in reversed(typed) if o.key_or_group == "resume_model_dir"), None)
    if folder is None:
        raise ConfigError([*errors, f"mode={find_mode(overrides)} needs a run: pass resume_model_dir=<run folder>"])
    if not isinstance(folder, str):
        raise ConfigError([*errors, _SETTINGS["resume_model_dir"].error(folder)])
    saved = read_saved(Path(folder))
    base, not_taken = _for_this_machine(saved, typed)
    tree, kept, more = _lay_on(base, typed, choices, config_dir)
    saved, tree = with_absolute_data_paths(saved), with_absolute_data_paths(tree)
    errors += more
    config = None
    try:
        config = validate(tree | {"allow_targets": sorted(typed_targets(typed))})
    except ConfigError as error:
        errors += error.errors
    changes = _list_changes(saved, tree)
    errors += _refusals(changes, tree, Path(folder))
    if errors or config is None:
        raise ConfigError(errors)
    return Job(config, changes, notes=(*_machine_notes(config, not_taken), *kept))


def read_saved(run: Path) -> dict[str, Any]:
    """The tree of a run folder, as a stranger's data: plain YAML, no `${...}`, known options only; of an earlier
    version it comes with the keys of today and their old meaning."""
    path = run / "args.yaml"
    if not os.path.isdir(run):  # unlike Path.is_dir, false for a name that is too long
        raise CheckpointError(f"resume_model_dir={run}: {why_no_folder(str(run), 'pass the folder of a run')}")
    if not path.is_file():
        raise CheckpointError(
            f"resume_model_dir={run}: holds no run (no args.yaml); pass the folder that training printed"
        )
    try:
        saved = load_plain(read_bounded(run, "args.yaml", MAX_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as plain YAML: {error}") from None
    if not isinstance(saved, dict) or not all(isinstance(key, str) for key in saved):
        raise CheckpointError(f"{path} does not hold the configuration of a run")
    for key in ("digest", *IDENTITY):  # not of the configuration
        saved.pop(key, None)
    errors = [f"{key}: '${{' is refused here" for key, value in _flat(saved).items() if "${" in f"{key}{value}"]
    try:
        tree = upgrade(Config, saved, SCHEMA_VERSION)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {'; '.join(error.errors)}; it was written by another version") from None
    errors += [
        f"{group}: is missing" for group in groups(Config) if "." not in group and not isinstance(tree.get(group), dict)
    ]
    values = _flat(tree)
    errors += [f"{key}: there is no such option" for key in values if key not in _SETTINGS and not in_open_group(key)]
    errors += [f"{key}: is missing" for key in _SETTINGS if "." not in key and key not in values]
    if errors:
        raise CheckpointError(
            "\n".join(
                [f"{path} is not the configuration of a run of this version:", *(f"  - {error}" for error in errors)]
            )
        )
    return tree | {"allow_targets": []}  # only the command line may allow a class


def _for_this_machine(saved: dict[str, Any], typed: list[Override]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The saved tree with the defaults of today for what is of a machine, and the saved values that were left out so: the
    run of a stranger starts no processes and writes nowhere else. Typed keys are not among them."""
    today = _flat({**read_choice("runtime", "default", None), "data": read_choice("data", "_base", None)})
    before = _flat(saved)
    keys = (*PER_MACHINE, *(["device"] if isinstance(saved["device"], list) else []))
    tree, not_taken = copy.deepcopy(saved), {}
    for key in (key for key in keys if key in before):
        set_key(tree, key, today[key])
        if before[key] != today[key] and all(override.key_or_group != key for override in typed):
            not_taken[key] = before[key]
    return tree, not_taken


def _machine_notes(config: Config, not_taken: dict[str, Any]) -> tuple[str, ...]:
    command = config.command
    matter = {"data.cache_dir": command.needs_data, "data.workers": command.needs_data}
    named = [f"{key}={show(value)}" for key, value in not_taken.items() if matter.get(key, command.shares_work)]
    return (
        (f"of the machine of the run, and not taken from it: {', '.join(named)}; to use it, type it",) if named else ()
    )


def _lay_on(
    saved: dict[str, Any], typed: list[Override], choices: Choices, config_dir: str | None
) -> tuple[dict[str, Any], list[str], list[str]]:
    """The saved tree with what was typed, notes on what typed groups kept, and errors of what cannot be applied."""
    tree = copy.deepcopy(saved)
    notes: list[str] = []
    errors: list[str] = []
    whole = (*GLOBAL_GROUPS, "model/adapter")  # they are chosen at the first start
    for override in typed:
        if override.key_or_group in whole:
            errors.append(
                f"{override.key_or_group}=: not on a saved run, whose configuration is the base; pass single options or groups"
            )
    chosen = [o for o in typed if o.key_or_group in choices and o.key_or_group not in whole]
    if chosen:
        try:
            composed = compose.compose_tree([o.input_line or "" for o in chosen], config_dir)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError([*errors, compose.first_line(error)]) from None
        notes += compose.collect_notes(composed, typed_targets(typed), config_dir)
        today = composed.tree
        for override in chosen:
            group, choice = override.key_or_group, str(override.value())
            kept = _shared_values(group, choice, tree, today, choices[group], config_dir)
            tree[group] = today[group]
            for key, value in kept.items():
                set_key(tree, key, value)
            if kept:
                shown = ", ".join(f"{key}={show(value)}" for key, value in kept.items())
                notes.append(f"{group}={choice}: keeps of the run what all choices of {group} have: {shown}")
    known = _flat(tree)
    changed_targets = [
        o for o in typed if o.key_or_group.endswith("._target_") and known.get(o.key_or_group) != o.value()
    ]
    others = [o for o in typed if not o.key_or_group.endswith("._target_")]
    compose.drop_untyped_keys(tree, [*changed_targets, *others])
    foreign = tuple(f"{override.key_or_group.removesuffix('_target_')}" for override in changed_targets)
    for override in typed:
        key = override.key_or_group
        if key in choices:
            continue
        adds = (override.is_add() and in_open_group(key)) or (foreign and key.startswith(foreign))
        if key in known or adds:
            set_key(tree, key, override.value())
        else:
            errors.append(no_option(override, known, choices, config_dir))
    return tree, notes, errors


def _shared_values(
    group: str,
    choice: str,
    tree: dict[str, Any],
    today: dict[str, Any],
    names: Sequence[str],
    config_dir: str | None,
) -> dict[str, Any]:
    """The values of the run that differ from those of the choice and do not tell one choice of the group from another."""
    files = {name: _flat({group: read_choice(group, name, config_dir)}) for name in ("_base", *names)}
    own = {
        key
        for key, value in files[choice].items()
        if key in files["_base"] or any(key in file and file[key] != value for file in files.values())
    }
    before, after = _flat({group: tree[group]}), _flat({group: today[group]})
    return {
        key: before[key] for key, value in after.items() if key in before and key not in own and before[key] != value
    }


def list_changes(saved: Config, other: Config) -> tuple[tuple[str, str, str], ...]:
    """The settings of a run that differ, `(key, before, after)`, without those that say what to do with it."""
    return _differences(saved.flat(), other.flat())


def _list_changes(saved: dict[str, Any], tree: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    return _differences(read(Config, saved).values, read(Config, tree).values)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    keys = [key for key in {**before, **after} if not _is_per_command(key) and before.get(key) != after.get(key)]
    return tuple((key, _show(before, key), _show(after, key)) for key in keys)


def _is_per_command(key: str) -> bool:
    """Whether a key says what to do with the run, and is no part of it."""
    return key in _SETTINGS and _SETTINGS[key].meta.per_command


def _refusals(changes: tuple[tuple[str, str, str], ...], tree: dict[str, Any], run: Path) -> list[str]:
    """The changes that trained weights do not allow; an optimizer matters to a resume alone."""
    found = [
        f"{key}: {before} -> {after} cannot change: {_reason(key)}"
        for key, before, after in changes
        if on_resume(Config, key) == "refused" and (find_command(tree["mode"]).trains or key.startswith("model."))
    ]
    if found:
        weights = quote_text(run / "weights" / "last")
        found[-1] += (
            ". To start a new run from these weights: mode=train, the options of that run, and "
            f"model.pretrained_model={weights}"
        )
    return found


def _reason(key: str) -> str:
    return (
        "the saved optimizer state is of that kind" if key.startswith("optim") else "the saved weights have that shape"
    )


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    return flatten(tree, frozenset(DICTS))


def _show(values: Mapping[str, Any], key: str) -> str:
    return "(none)" if key not in values else show(values[key])
