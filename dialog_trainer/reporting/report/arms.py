"""Which settings vary between runs, and the arms of the comparison: runs that differ in nothing but their seed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dialog_trainer.config.machine import PER_MACHINE
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import all_settings, show
from dialog_trainer.errors import ConfigError
from dialog_trainer.reporting.report.collect import RunRecord

# They name a run, or what it writes; its numbers do not depend on them.
_WITHOUT_EFFECT = re.compile(
    r"seed|project|name|figures\..*|logger\..*|save_.*|keep_checkpoints|log_every_n_steps|prediction_print_n|data\.cache_dir"
)
# They may change numbers in their last digits, and are settings of a study only where nothing else varies.
_OF_MACHINE = {
    *PER_MACHINE, "precision", "threads", "device", "parallel", "compile", "micro_batch_tokens", "activation_checkpointing",
    "deterministic",
}  # fmt: skip
_DEFAULT = "(default)"


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting: its value for each varied key, and its complete runs by seed."""

    label: str
    values: tuple[Any, ...]
    runs: Mapping[int, RunRecord]


@dataclass(frozen=True, slots=True)
class Design:
    """What is compared: the varied `keys`, and an arm for each combination of values. `notes` say what was left out or
    guessed."""

    keys: tuple[str, ...]
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]

    def name_arm(self, arm: Arm) -> str:
        """The arm in a sentence: with the key, where the label is a value alone."""
        return f"{self.keys[0]}={arm.label}" if len(self.keys) == 1 else arm.label

    def find_baseline(self, text: str | None) -> Arm:
        """The arm of `report.baseline`, or the first one; of several keys, a value that one arm alone has will do. Raises
        `ConfigError`."""
        if text is None:
            return self.arms[0]
        for arm in self.arms:
            if text == arm.label:
                return arm
        found = [
            arm for arm in self.arms if any(_names(text, *part) for part in zip(self.keys, arm.values, strict=True))
        ]
        if len(found) == 1:
            return found[0]
        if not self.keys:
            raise ConfigError([f"report.baseline={text}: the runs differ in their seed alone; leave it out"])
        reason = "several settings have this value" if found else f"no run has this value of {', '.join(self.keys)}"
        there = "; ".join(arm.label for arm in found or self.arms)
        raise ConfigError([f"report.baseline={text}: {reason}; there are: {there}"])


def find_design(runs: Sequence[RunRecord]) -> Design:
    """Groups runs to arms. Runs that are not complete have a say in which settings vary, and are in no arm."""
    columns, derived = _find_columns(runs)
    keys = tuple(columns)
    found: dict[str, tuple[tuple[Any, ...], dict[int, RunRecord]]] = {}
    notes = [f"differ between the runs too, as a consequence: {', '.join(derived)}"] if derived else []
    for index, run in enumerate(runs):
        values = tuple(column[index] for column in columns.values())
        _, by_seed = found.setdefault(label_values(keys, values), (values, {}))
        if run.is_complete and run.seed in by_seed:
            notes.append(
                f"{run.name} has the settings and the seed of {by_seed[run.seed].name}: only the latter is counted"
            )
        elif run.is_complete:
            by_seed[run.seed] = run
    arms = [Arm(label, values, by_seed) for label, (values, by_seed) in found.items()]
    arms.sort(key=_sorting_key(arms, len(keys)))
    seeds = {seed for arm in arms for seed in arm.runs}
    lacking = [f"{arm.label} lacks {_list(sorted(seeds - arm.runs.keys()))}" for arm in arms if seeds - arm.runs.keys()]
    if lacking:
        notes.append(f"not every seed has a complete run: {'; '.join(lacking)}; differences are over the seeds of both")
    return Design(keys, tuple(arms), tuple(notes))


def _find_columns(runs: Sequence[RunRecord]) -> tuple[dict[str, list[Any]], list[str]]:
    """The values of each varied setting, by run; and the settings that differ as a consequence of those."""
    per_command = {key for key, setting in all_settings(Config).items() if setting.meta.per_command}
    every_key = dict.fromkeys(key for run in runs for key in run.settings)
    varied = [
        key
        for key in every_key
        if key not in per_command
        and not _WITHOUT_EFFECT.fullmatch(key)
        and len({json.dumps(run.settings.get(key), default=str) for run in runs}) > 1
    ]
    varied = [key for key in varied if key not in _OF_MACHINE] or varied
    typed = [dict(_read_typed(text) for text in run.typed) for run in runs]
    columns: dict[str, list[Any]] = {}
    derived = []
    for key in varied:
        if any(key in one for one in typed):
            columns[key] = [run.settings.get(key) for run in runs]
            continue
        groups = (".".join(key.split(".")[:count]) for count in range(1, key.count(".") + 1))
        group = next((one for one in groups if len({options.get(one) for options in typed}) > 1), None)
        if group:
            columns[group] = [
                options.get(group) or _name_default(run, group) for options, run in zip(typed, runs, strict=True)
            ]
        else:
            derived.append(key)
    if columns:
        return columns, derived
    return {key: [run.settings.get(key) for run in runs] for key in varied}, []


def _name_default(run: RunRecord, group: str) -> str:
    """The choice of a group that was not typed: by what it builds, where it says that."""
    return str(run.settings.get(f"{group}._target_") or _DEFAULT).rpartition(".")[2]


def _read_typed(text: str) -> tuple[str, str]:
    """Key and value of an override; the group `model/adapter` is `model.adapter`."""
    key, _, value = text.lstrip("+~").partition("=")
    return key.replace("/", "."), value


def label_values(keys: Sequence[str], values: Sequence[Any]) -> str:
    """The values as `0.5`, or with the last part of their keys where there are several: `lr0=0.001, batch_size=16`."""
    if not keys:
        return "all runs"
    if len(keys) == 1:
        return _show(values[0])
    lasts = [key.rpartition(".")[2] for key in keys]
    names = [last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)]
    return ", ".join(f"{name}={_show(value)}" for name, value in zip(names, values, strict=True))


def _show(value: Any) -> str:
    return f"{value:g}" if type(value) is float else show(value)


def _sorting_key(arms: Sequence[Arm], width: int) -> Callable[[Arm], tuple[float, ...]]:
    """By each value in turn: numbers by size, others in the order in which they appear."""
    places: list[dict[str, float]] = []
    for index in range(width):
        values = [arm.values[index] for arm in arms]
        if all(type(value) in (int, float) for value in values):
            places.append({repr(value): float(value) for value in values})
        else:
            places.append({repr(value): float(-place) for place, value in enumerate(reversed(values))})
    return lambda arm: tuple(place[repr(value)] for place, value in zip(places, arm.values, strict=True))


def _names(text: str, key: str, value: Any) -> bool:
    """Whether a text, as `0.5` or `lr0=0.5`, is the value of a key."""
    name, equals, right = text.partition("=")
    if equals and name not in (key, key.rpartition(".")[2]):
        return False
    right = right if equals else text
    return right == _show(value) or _as_number(right) == _as_number(_show(value)) is not None


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _list(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
