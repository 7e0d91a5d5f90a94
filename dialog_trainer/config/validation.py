"""Checks across fields: what goes together, what is on this machine, which code may run. No torch, no Hydra.

Each check looks at the fields that are valid by themselves, so that one bad value does not hide another.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Set
from functools import cache, partial
from typing import Any

from dialog_trainer.config.commands import BUILT_IN, command_of, is_dotted
from dialog_trainer.config.groups import OpenGroup
from dialog_trainer.config.machine import missing_compiler
from dialog_trainer.config.paths import Values, check_data_files, check_folders, check_model, check_names, check_runs
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import Setting, all_settings, construct, groups, read
from dialog_trainer.errors import ConfigError
from dialog_trainer.files import why_no_folder
from dialog_trainer.metrics.registry import LOWER_IS_BETTER, ORIGINAL_SCORE_NAMES, SCORE_NAMES, WITHOUT_DIRECTION
from dialog_trainer.metrics.tokenize import describe_unfit


def validate(tree: Mapping[str, Any]) -> Config:
    """The configuration of a whole tree of plain values. Raises `ConfigError` with all errors."""
    reading = read(Config, tree)
    for key, setting in _score_lists():
        if key in reading.wrong:
            reading.invalid[key] = setting.error(reading.wrong[key], SCORE_NAMES)
    errors = reading.errors
    values = {key: value for key, value in reading.values.items() if key not in reading.invalid}
    # A metric of the user's own has the last part of its dotted name.
    score_names = (*SCORE_NAMES, *(name.rpartition(".")[2] for name in values.get("metrics.extra", ())))
    unknown = _check_score_names(values, score_names)
    errors += unknown.values()
    values = {key: value for key, value in values.items() if key not in unknown}
    wrong_command = _check_command(values)
    if wrong_command:
        errors += wrong_command
        values = {key: value for key, value in values.items() if key != "mode"}
    errors += _check_targets(values)
    errors += check_names(values) or check_folders(values)
    errors += check_runs(values)
    errors += _check_saved_run(values)
    errors += _check_scores(values, score_names)
    errors += _check_schedule(values)
    errors += _check_sizes(values)
    errors += _check_generation(values)
    errors += _check_compile(values)
    errors += check_data_files(values)
    errors += check_model(values)
    errors += _check_adapter(values)
    if values.get("optim.lr0") == "auto" and values.get("optim._target_") == "torch.optim.SGD":
        errors.append("optim.lr0=auto: not with optim=sgd, which needs a larger one; type a number")
    errors += _check_scratch(values, reading.values.keys() | reading.invalid.keys())
    if errors:
        raise ConfigError(errors)
    return construct(Config, reading.values)


def collect_notes(config: Config) -> list[str]:
    """What is allowed but worth a line."""
    found = []
    if config.mask_schedule.last_turn_only:
        found.append("mask_schedule.last_turn_only=true: the schedule does not apply to the other turns, which weigh 0")
    if config.scheduler.warmup_steps > config.steps:
        found.append(
            f"the warm-up (scheduler.warmup_steps={config.scheduler.warmup_steps:,}) is longer than the run "
            f"(steps={config.steps:,}): the learning rate never reaches optim.lr0"
        )
    return found


def _check_score_names(values: Values, score_names: tuple[str, ...]) -> dict[str, str]:
    """The errors of fields that name a score which does not exist."""
    return {
        key: setting.error(values[key], score_names)
        for key, setting in _score_lists()
        if key in values and any(name not in score_names for name in values[key])
    }


def _check_command(values: Values) -> list[str]:
    """The errors of a command of the user's own, which is imported where it was typed or allowed."""
    mode = values.get("mode", "")
    if is_dotted(mode) and mode not in values.get("allow_targets", ()):
        return [f"mode={mode}: is code of your own; to run it, pass allow_targets=[{mode}]"]
    try:
        command_of(values)
    except ConfigError as error:
        return error.errors
    return []


def _check_targets(values: Values) -> list[str]:
    allowed, command = values.get("allow_targets", ()), command_of(values) or BUILT_IN["train"]
    found = []
    for group in command.runs_code_of:
        record, target = groups(Config)[group], values.get(f"{group}._target_")
        if target is None or not issubclass(record, OpenGroup) or target in (*record.TARGETS, *allowed):
            continue
        near = difflib.get_close_matches(target, record.TARGETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"not one of {', '.join(sorted(record.TARGETS))}"
        found.append(f"{group}._target_={target}: {hint}; to run this class as code, pass allow_targets=[{target}]")
    chat_format = values.get("model.chat_format", "")
    if is_dotted(chat_format) and chat_format not in allowed:
        found.append(
            f"model.chat_format={chat_format}: is code of your own; to run it, pass allow_targets=[{chat_format}]"
        )
    if command.scores:
        found += [
            f"metrics.extra: {name} is code of your own; to run it, pass allow_targets=[{name}]"
            for name in values.get("metrics.extra", ())
            if name not in allowed
        ]
    return found


def _check_saved_run(values: Values) -> list[str]:
    folder, command = values.get("resume_model_dir"), command_of(values)
    if command is None:
        return []
    mode = command.name
    if not command.works_on_saved_run and folder is not None:
        return [f"resume_model_dir={folder}: goes with mode=resume, validate, chat or export, not with mode={mode}"]
    if command.works_on_saved_run and folder is None and "resume_model_dir" in values and not values.get("runs"):
        return [f"mode={mode} needs a run: pass resume_model_dir=<run folder>"]
    return []


def _check_scores(values: Values, score_names: tuple[str, ...]) -> list[str]:
    names, best = values.get("metrics.names", score_names), values.get("metrics.best", {})
    command = command_of(values)
    trains = command is not None and command.trains  # only then a best checkpoint is chosen
    found = [
        f"metrics.best={best}: {name} is not computed; add it to metrics.names"
        for name in best
        if trains and name not in names
    ]
    for name, weight in best.items():
        if name in WITHOUT_DIRECTION:
            found.append(f"metrics.best={best}: no value of {name} is better than another; leave it out")
        elif name in LOWER_IS_BETTER and weight > 0:
            found.append(f"metrics.best={best}: a lower {name} is better; give it a weight below 0")
    if values.get("metrics.protocol") == "original":
        found += [
            f"metrics.names: {name} is no score of metrics=original; it has {', '.join(ORIGINAL_SCORE_NAMES)}"
            for name in values.get("metrics.names", ())
            if name not in ORIGINAL_SCORE_NAMES
        ]
    if command is not None and command.scores and "metrics.tokenize" in values:
        found += describe_unfit(values["metrics.tokenize"], names)
    place = values.get("compare_with")
    if place is not None and values.get("mode", "validate") != "validate":
        found.append(f"compare_with={place}: goes with mode=validate")
    elif place is not None and not os.path.isdir(place):
        remedy = "pass a run folder that mode=validate has scored"
        found.append(f"compare_with={place}: {why_no_folder(place, remedy)}")
    return found


def _check_schedule(values: Values) -> list[str]:
    start, end, points = (values.get(f"mask_schedule.{name}") for name in ("start", "end", "points"))
    # A function of one's own may mean another thing by them.
    if isinstance(start, float) and isinstance(end, float) and start > end:
        return [f"mask_schedule.start={start}: must be at most mask_schedule.end={end}"]
    if not str(values.get("mask_schedule._target_")).endswith(".schedules.piecewise") or not points:
        return []
    found = []
    for index, point in enumerate(points):
        place = f"mask_schedule.points[{index}]={list(point)}"
        if not all(0 <= number <= 1 for number in point):
            found.append(f"{place}: progress and weights must be from 0 to 1")
        if index and point[0] < points[index - 1][0]:
            found.append(f"{place}: comes after progress {points[index - 1][0]}; order the points by progress")
    steps = values.get("schedule_steps") or values.get("steps")
    return found or _check_timeline(points, steps)


def _check_timeline(points: tuple[tuple[float, ...], ...], steps: int | None) -> list[str]:
    """The errors of the weights along the points: a step at which both roles weigh 0."""
    if not steps:
        return []
    from dialog_trainer.masking.loss_weights import Mask
    from dialog_trainer.masking.schedules import piecewise
    from dialog_trainer.masking.timeline import build_timeline

    try:
        build_timeline(Mask(partial(piecewise, points=points)), steps)
    except ConfigError as error:
        return error.errors
    return []


def _check_sizes(values: Values) -> list[str]:
    found = []
    max_len = values.get("model.max_len")
    if max_len is not None:
        keys = ("micro_batch_tokens", "metrics.generation.batch_tokens", "model.positions")
        found += [
            f"{key}={values[key]}: must be at least model.max_len={max_len}"
            for key in keys
            if isinstance(values.get(key), int) and values[key] < max_len
        ]
        for key in ("metrics.generation.max_new_tokens", "chat.generation.max_new_tokens"):
            if (values.get(key) or 0) > max_len - 2:
                found.append(
                    f"{key}={values[key]}: must be at most {max_len - 2}, so that model.max_len={max_len} has room for "
                    "a context and the reply"
                )
    heads, width = values.get("model.heads"), values.get("model.width")
    if heads and width and width % heads:
        found.append(f"model.width={width}: must be a multiple of model.heads={heads}")
    return found


def _check_generation(values: Values) -> list[str]:
    found = []
    key = "metrics.generation.max_new_tokens"
    if key in values and values[key] is None:
        found.append(f"{key}=null: must be a whole number of at least 1; null is for a chat alone")
    if values.get("chat.generation.decoding") == "beam":
        found.append("chat.generation.decoding=beam: not in a chat, which writes as it generates; use greedy or sample")
    if values.get("metrics.protocol") == "original" and values.get("model.chat_format") == "template":
        found.append("model.chat_format=template: metrics=original scores rows of the separator format alone")
    return found


def _check_compile(values: Values) -> list[str]:
    command = command_of(values)
    if values.get("compile") is not True or command is None or not command.trains:
        return []
    if values.get("activation_checkpointing"):
        return [
            "compile=true: not with activation_checkpointing=true, within which torch compiles nothing; use compile=false"
        ]
    lack = missing_compiler()
    return [f"compile=true: {lack}, or use compile=false"] if lack else []


def _check_adapter(values: Values) -> list[str]:
    if values.get("model.adapter.method") != "lora":
        return []
    missing = [name for name in ("rank", "alpha", "dropout", "targets") if f"model.adapter.{name}" not in values]
    found = [f"model.adapter.{name}: is missing; model/adapter=lora has it" for name in missing]
    if values.get("model.pretrained_model", "") is None:
        found.append("model/adapter=lora: a model from scratch has nothing to adapt; pass model.pretrained_model")
    if values.get("parallel") == "fsdp":
        found.append("parallel=fsdp: not with model/adapter=lora, whose gradients are small; use parallel=ddp")
    return found


def _check_scratch(values: Values, given: Set[str]) -> list[str]:
    """A model from scratch needs its sizes; `given` are the keys of the tree, valid or not."""
    if values.get("model.pretrained_model", "") is not None:
        return []
    if "model.layers" not in given:
        return ["model.pretrained_model=null: only model=gpt2_tiny is built from scratch; pass a hub id or a folder"]
    if values.get("model.chat_format") == "template":
        return ["model.chat_format=template: a model from scratch has no chat template; use separator or auto"]
    sizes = (f"model.{name}" for name in ("vocab_size", "heads", "width", "positions"))
    return [f"{key}: is missing; a model from scratch needs it" for key in sizes if key not in given]


@cache
def _score_lists() -> tuple[tuple[str, Setting], ...]:
    return tuple((key, setting) for key, setting in all_settings(Config).items() if setting.is_score_list)
