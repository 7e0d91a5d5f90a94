"""Command line -> settings: Hydra's composition, with all faults named together, and the saved settings of a run."""

from __future__ import annotations

import copy
import difflib
import fnmatch
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dialog_trainer import options
from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.options import Settings

_PACKAGE = Path(__file__).resolve().parent
# In a checkout conf/ lies beside the package, in a wheel inside it.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf" / "config.yaml").is_file() else _PACKAGE.parent / "conf"
# The modes that work on an existing run and start from its settings.
RUN_MODES = ("resume", "validate", "chat")
# What cannot change under trained weights, and what can but then continues another run than the one begun.
REFUSED = re.compile(r"model\.(?!max_len$|dropout$).*|optim\._target_")
INEXACT = re.compile(
    r"batch_size|seed|deterministic|device|precision|processes|compile|micro_batch_tokens"
    r"|model\.(max_len|dropout)|data\.(?!workers$|cache_dir$).*"
)


@dataclass(frozen=True, slots=True)
class Composed:
    """Settings that passed every check. `changes` are lines that say what differs from the saved run."""

    settings: Settings
    changes: tuple[str, ...] = ()


def whole_dicts(overrides: list[str]) -> list[str]:
    """Lets a typed dict bring keys that the default one lacks, which Hydra asks to be said with `++`."""
    starts = tuple(f"{key}=" for key in options.DICTS)
    return [f"++{text}" if text.startswith(starts) else text for text in overrides]


def check(overrides: list[str], config_dir: str | None = None) -> list[Composed]:
    """The jobs of a command line: one, or each combination of a sweep. Raises `ConfigError` with every fault of all."""
    found: list[str] = []
    jobs: list[Composed] = []
    good: list[tuple[Override, str]] = []
    groups = _groups(config_dir)
    for text in overrides:
        override, fault = _parsed(text, groups)
        if fault:
            found.append(fault)
        else:
            good.append((override, text))
    for combination in itertools.product(*(_variants(*pair, groups) for pair in good)):
        try:
            jobs.append(_checked(list(combination), groups, config_dir))
        except ConfigError as error:
            found += error.faults
        except CheckpointError as error:
            found.append(str(error))
    if found:
        raise ConfigError(found)
    return jobs


def composed(config: Any, overrides: list[str]) -> Composed:
    """The settings of a composed `DictConfig`, laid on those of the saved run where the mode works on one.

    Raises `ConfigError` or `CheckpointError`.
    """
    settings = OmegaConf.to_container(config, resolve=True)
    typed = [override for override in OverridesParser.create().parse_overrides(overrides) if not _is_hydra(override)]
    for override in typed:
        # Hydra merges a dict into the default one; who types a dict means just that dict.
        if _key(override) in options.DICTS and isinstance(override.value(), dict):
            _set(settings, _key(override), override.value())
    if settings.get("mode") in RUN_MODES and isinstance(settings.get("resume_model_dir"), str):
        saved = read_saved(Path(settings["resume_model_dir"]))
        settings = _laid_on(saved, settings, typed)
        changes = _changes(saved, settings)
    else:
        changes = ()
    found = options.faults(settings)
    if settings.get("mode") == "resume" and changes:
        found += [_refusal(change) for change in changes if REFUSED.fullmatch(change.split(":", 1)[0])]
    if found:
        raise ConfigError(found)
    return Composed(settings, tuple(changes))


def read_saved(run: Path) -> Settings:
    """The settings of a run folder, read as a stranger's data: plain YAML, no `${...}`, known options only."""
    path = run / "args.yaml"
    if not run.is_dir():
        raise CheckpointError(f"resume_model_dir={run}: there is no such folder; pass the folder of a run")
    if not path.is_file():
        raise CheckpointError(
            f"resume_model_dir={run}: holds no run (no args.yaml); pass the folder that training printed"
        )
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not plain YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path} does not hold the settings of a run")
    values = options.flat(saved)
    found = [f"{key}={value}: '${{' is refused here" for key, value in values.items() if "${" in f"{key}{value}"]
    found += [f"{key}: there is no such option" for key in values if not _known(key)]
    found += [f"{key}: is missing" for key in options.RULES if "." not in key and key not in values]
    if found:
        raise CheckpointError(
            "\n".join([f"{path} is not the settings of a run of this version:", *(f"  - {f}" for f in found)])
        )
    saved["allow_targets"] = []  # only the command line may allow a class
    return saved


def inexact(changes: tuple[str, ...]) -> list[str]:
    """The changed keys under which training goes on, but not exactly as it would have."""
    return [key for key in (change.split(":", 1)[0] for change in changes) if INEXACT.fullmatch(key)]


def _laid_on(saved: Settings, today: Settings, typed: list[Override]) -> Settings:
    """A typed value sets its key, a typed group replaces its subtree; nothing else of `today` comes in."""
    settings = copy.deepcopy(saved)
    groups = _groups(None)
    for override in sorted(typed, key=lambda override: _key(override) not in groups):
        _set(settings, _key(override), _get(today, _key(override)))
    return settings


def _changes(saved: Settings, settings: Settings) -> tuple[str, ...]:
    before, after = options.flat(saved), options.flat(settings)
    asked = {"mode", "resume_model_dir", "load_model_type", "split", "ui", "allow_targets"}
    keys = [key for key in {**before, **after} if key not in asked and before.get(key) != after.get(key)]
    return tuple(f"{key}: {_shown(before, key)} -> {_shown(after, key)}" for key in keys)


def _shown(values: dict[str, Any], key: str) -> str:
    return "(none)" if key not in values else "null" if values[key] is None else str(values[key])


def _refusal(change: str) -> str:
    key = change.split(":", 1)[0]
    what = (
        "the saved optimizer state fits its own class only"
        if key.startswith("optim")
        else "the saved weights have this shape"
    )
    return (
        f"{change}: cannot change in a resume ({what}); to start anew from these weights: "
        "mode=train model.pretrained_model=<run>/weights/last"
    )


def _checked(overrides: list[str], groups: dict[str, list[str]], config_dir: str | None) -> Composed:
    """Composes one job. Raises `ConfigError` with all its faults, or `CheckpointError`."""
    parsed = [OverridesParser.create().parse_override(text) for text in overrides]
    found, kept = [], overrides
    try:
        config = _compose(overrides, config_dir)
    except (HydraException, OmegaConfBaseException):
        # Hydra names one fault: look at each override beside the chosen groups.
        found, kept = _each(parsed, overrides, groups, config_dir)
        config = _compose(kept, config_dir)
    if config.get("mode") in RUN_MODES and any(_key(override) == "experiment" for override in parsed):
        found.append(
            f"experiment=: not with mode={config['mode']}, which starts from the settings of the run; pass single options or groups"
        )
    try:
        job = composed(OmegaConf.create(config), kept)
    except ConfigError as error:
        raise ConfigError([*found, *error.faults]) from None
    if found:
        raise ConfigError(found)
    return job


def _each(
    parsed: list[Override], overrides: list[str], groups: dict[str, list[str]], config_dir: str | None
) -> tuple[list[str], list[str]]:
    """The faults of single overrides, and the overrides that have none."""
    pairs = [pair for pair in zip(parsed, overrides, strict=True) if not _is_hydra(pair[0])]
    chosen = [text for override, text in pairs if _key(override) in groups]
    try:
        known = options.flat(_compose(chosen, config_dir))
    except (HydraException, OmegaConfBaseException) as error:
        return [_first_line(error)], []
    found, kept = [], list(chosen)
    for override, text in pairs:
        if _key(override) in groups:
            continue
        fault = _key_fault(override, text, known, groups)
        if not fault:
            try:
                _compose([*chosen, text], config_dir)
                kept.append(text)
            except (HydraException, OmegaConfBaseException) as error:
                fault = f"{text}: {_first_line(error)}"
        if fault:
            found.append(fault)
    return found, kept


def _compose(overrides: list[str], config_dir: str | None) -> Settings:
    search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", overrides=[*overrides, *search])
    return OmegaConf.to_container(config, resolve=True)


def _parsed(text: str, groups: dict[str, list[str]]) -> tuple[Override | None, str | None]:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return (
            None,
            f"{text}: cannot be read; write key=value, and quote a value with spaces or signs: 'key=\"a value\"'",
        )
    key = _key(override)
    if _is_hydra(override):
        return override, None
    if override.is_delete():
        return None, f"{text}: an option cannot be removed; set it to another value"
    if key in groups and not override.is_sweep_override():
        name = override.value()
        if name is None and key == "experiment":
            return override, None
        if name not in groups[key]:
            return (
                None,
                f"{text}: {key} has no {name!r}; there are {', '.join(groups[key])}{_near(str(name), groups[key])}",
            )
    return override, None


def _key_fault(override: Override, text: str, known: dict[str, Any], groups: dict[str, list[str]]) -> str | None:
    key = _key(override)
    if key in known or any(name.startswith(f"{key}.") for name in known):
        return None
    if override.is_add() and key.startswith(tuple(f"{group}." for group in options.OPEN_GROUPS)):
        return None
    hint = "; another choice of its group has it" if key in options.RULES else _near(key, [*known, *groups])
    return f"{text}: there is no option {key}{hint}"


def _near(name: str, known: list[str]) -> str:
    # A last part that is right, but in another group or without its group; else what is spelt most alike.
    close = [key for key in known if key.split(".")[-1] == name.split(".")[-1]]
    close = (close or difflib.get_close_matches(name, known, n=2, cutoff=0.6))[:2]
    return f"; did you mean {' or '.join(close)}?" if close else "; --cfg job shows all options"


def _known(key: str) -> bool:
    return key in options.RULES or key.startswith(tuple(f"{group}." for group in options.OPEN_GROUPS))


def _variants(override: Override, text: str, groups: dict[str, list[str]]) -> Iterator[str]:
    if _is_hydra(override) or not override.is_sweep_override():
        return iter([text])
    if isinstance(override.value(), Glob):
        glob = override.value()
        names = [
            name
            for name in groups.get(_key(override), [])
            if any(fnmatch.fnmatch(name, pattern) for pattern in glob.include)
            and not any(fnmatch.fnmatch(name, pattern) for pattern in glob.exclude)
        ]
    else:
        names = list(override.sweep_string_iterator())
    return (f"{override.get_key_element()}={name}" for name in names)


def _groups(config_dir: str | None) -> dict[str, list[str]]:
    """The groups that a user chooses from, with their options."""
    groups: dict[str, set[str]] = {}
    for root in filter(None, (CONF, config_dir)):
        for path in Path(root).glob("*/*.yaml"):
            if path.parent.name != "hydra":
                groups.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(names) for group, names in groups.items()}


def _key(override: Override) -> str:
    return override.key_or_group


def _is_hydra(override: Override) -> bool:
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _get(settings: Settings, key: str) -> Any:
    for part in key.split("."):
        settings = settings[part]
    return copy.deepcopy(settings)


def _set(settings: Settings, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        settings = settings.setdefault(part, {})
    settings[last] = value
