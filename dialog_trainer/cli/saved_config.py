"""The saved settings of a run as the base of mode=resume, validate and chat, with what was typed laid on them."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dialog_trainer.cli.compose import (
    Groups,
    compose_settings,
    first_line,
    in_open_group,
    is_hydra,
    list_groups,
    parse_overrides,
    quote_text,
    set_key,
    unknown_option,
)
from dialog_trainer.config.checks import find_errors
from dialog_trainer.config.job import Job
from dialog_trainer.config.options import GROUPS, MODES_ON_A_RUN, RULES, Settings, flatten
from dialog_trainer.errors import CheckpointError, ConfigError

# Options that say what to do with the run and are no part of it.
_ASKED = ("mode", "resume_model_dir", "load_model_type", "split", "compare_with", "ui", "allow_targets", "chat",
          "port", "distributed_timeout_seconds")  # fmt: skip
# What cannot change under trained weights, and what can but then continues another run than the one begun.
_REFUSED = re.compile(r"model\.(?!max_len$|dropout$).*|optim\.(?!lr0$|weight_decay$|betas$|eps$|momentum$).*")
_INEXACT = re.compile(
    r"batch_size|seed|deterministic|device|precision|processes|parallel|compile|micro_batch_tokens"
    r"|model\.(max_len|dropout)|data\.(?!workers$|cache_dir$).*"
)


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, which can make a small file endless."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name)")
        return super().compose_node(parent, index)


def find_mode(overrides: list[str]) -> str | None:
    """The mode that was typed, if it is one that works on a run."""
    good, _ = parse_overrides(overrides, {}, sweep=True)
    typed = [override.value() for override in good if override.key_or_group == "mode"]
    return typed[-1] if typed and typed[-1] in MODES_ON_A_RUN else None


def inexact_changes(changes: Iterable[tuple[str, str, str]]) -> list[str]:
    """The changed keys under which training goes on, but not exactly as it would have."""
    return [key for key, _, _ in changes if _INEXACT.fullmatch(key)]


def load_changed_job(overrides: list[str], config_dir: str | None) -> Job:
    """The job of a mode that works on a run. Raises `ConfigError` with all faults, or `CheckpointError`.

    A typed value sets its key; a typed group replaces its subtree by the newly composed one; nothing else of today's
    `conf/` comes in.
    """
    groups = list_groups(config_dir)
    typed, found = parse_overrides(overrides, groups, sweep=False)
    found += [
        f"{override.input_line}: is Hydra's, which only starts new runs" for override in typed if is_hydra(override)
    ]
    found += [
        f"{override.input_line}: the run stays in its folder; leave it out"
        for override in typed
        if override.key_or_group in ("project", "name")
    ]
    typed = [override for override in typed if not is_hydra(override)]
    folder = next((o.value() for o in reversed(typed) if o.key_or_group == "resume_model_dir"), None)
    if folder is None:
        raise ConfigError([*found, f"mode={find_mode(overrides)} needs a run: pass resume_model_dir=<run folder>"])
    if not isinstance(folder, str):
        raise ConfigError([*found, RULES["resume_model_dir"].fault("resume_model_dir", folder)])
    saved = read_saved_settings(Path(folder))
    settings, more = _laid_on(saved, typed, groups, config_dir)
    changes = _changes(saved, settings)
    found += more + find_errors(settings)
    # An optimizer matters to a resume alone; a model of another shape to nobody.
    refused = [change for change in changes if _REFUSED.fullmatch(change[0])]
    refused = [change for change in refused if settings["mode"] == "resume" or change[0].startswith("model.")]
    found += [_refusal(*change) for change in refused]
    if refused:
        found[-1] += f". {_anew(Path(folder))}"
    if found:
        raise ConfigError(found)
    return Job(settings, changes)


def read_saved_settings(run: Path) -> Settings:
    """The settings of a run folder, as a stranger's data: plain YAML, no `${...}`, known options only."""
    path = run / "args.yaml"
    if not os.path.isdir(run):  # unlike Path.is_dir, false for a name that is too long
        raise CheckpointError(f"resume_model_dir={run}: there is no such folder; pass the folder of a run")
    if not path.is_file():
        raise CheckpointError(
            f"resume_model_dir={run}: holds no run (no args.yaml); pass the folder that training printed"
        )
    try:
        saved = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as plain YAML: {first_line(error)}") from None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path} does not hold the settings of a run")
    saved.pop("digest", None)  # kept for people; what a checkpoint was trained with stands in its own state
    values = flatten(saved)
    found = [f"{key}: '${{' is refused here" for key, value in values.items() if "${" in f"{key}{value}"]
    found += [f"{key}: there is no such option" for key in values if key not in RULES and not in_open_group(key)]
    found += [f"{key}: is missing" for key in RULES if "." not in key and key not in values]
    found += [f"{group}: is missing" for group in GROUPS if not isinstance(saved.get(group), dict)]
    if found:
        raise CheckpointError(
            "\n".join([f"{path} is not the settings of a run of this version:", *(f"  - {fault}" for fault in found)])
        )
    saved["allow_targets"] = []  # only the command line may allow a class
    return saved


def _laid_on(
    saved: Settings, typed: list[Override], groups: Groups, config_dir: str | None
) -> tuple[Settings, list[str]]:
    settings, found = copy.deepcopy(saved), []
    if any(override.key_or_group == "experiment" for override in typed):
        found.append("experiment=: not on a saved run, whose settings are the base; pass single options or groups")
    chosen = [o.input_line for o in typed if o.key_or_group in groups and o.key_or_group != "experiment"]
    if chosen:
        try:
            today = compose_settings(chosen, config_dir)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError([*found, first_line(error)]) from None
        for override in typed:
            if override.key_or_group in today and override.key_or_group in groups:
                settings[override.key_or_group] = today[override.key_or_group]
    known = flatten(settings)
    for override in typed:
        key = override.key_or_group
        if key in groups:
            continue
        if key in known or (override.is_add() and in_open_group(key)):
            set_key(settings, key, override.value())
        else:
            found.append(unknown_option(override, [*known, *groups]))
    return settings, found


def _changes(saved: Settings, settings: Settings) -> tuple[tuple[str, str, str], ...]:
    before, after = flatten(saved), flatten(settings)
    keys = [key for key in {**before, **after} if key.split(".")[0] not in _ASKED and before.get(key) != after.get(key)]
    return tuple((key, _shown(before, key), _shown(after, key)) for key in keys)


def _shown(values: dict[str, Any], key: str) -> str:
    return "(none)" if key not in values else "null" if values[key] is None else str(values[key])


def _refusal(key: str, before: str, after: str) -> str:
    why = (
        "the saved optimizer state is of that kind" if key.startswith("optim") else "the saved weights have that shape"
    )
    return f"{key}: {before} -> {after} cannot change: {why}"


def _anew(run: Path) -> str:
    weights = quote_text(run / "weights" / "last")
    return (
        f"To start anew from these weights: mode=train, the options of that run, and model.pretrained_model={weights}"
    )
