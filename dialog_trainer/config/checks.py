"""The check of a whole composition: single values, and what goes together. No torch, no Hydra."""

from __future__ import annotations

import importlib.util
import os
import unicodedata
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dialog_trainer.config.compiler import missing_compiler
from dialog_trainer.config.options import (
    FREE_TEXTS,
    MODES_ON_A_RUN,
    NEEDED,
    OPEN_GROUPS,
    RULES,
    TARGETS,
    Settings,
    flatten,
)
from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import piecewise
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.metrics.registry import LOWER_IS_BETTER, ORIGINAL_SCORE_NAMES, SCORE_NAMES, WITHOUT_DIRECTION


def find_errors(settings: Settings) -> list[str]:
    """Everything that is wrong with a whole composition, as far as can be told without torch."""
    values = flatten(settings)
    found = []
    for key, value in values.items():
        if key in RULES:
            found.append(RULES[key].fault(key, value))
        elif not key.startswith(tuple(f"{group}." for group in OPEN_GROUPS)):
            found.append(f"{key}={value}: there is no such option")
    found = [fault for fault in found if fault]
    found += [f"{key}: is missing; every choice of its group has it" for key in NEEDED if key not in values]
    bad = {fault.split("=", 1)[0] for fault in found}
    for check in (_targets, _names, _home, _old_run, _scores, _schedule, _sizes, _compiler, _data_files, _model_files):
        found += check({key: value for key, value in values.items() if key not in bad})
    return found + _from_scratch(values)


def collect_notes(settings: Settings) -> list[str]:
    """What is allowed but worth a line."""
    warmup, steps = settings["scheduler"]["warmup_steps"], settings["steps"]
    found = []
    if settings["mask_schedule"]["last_turn_only"]:
        found.append("mask_schedule.last_turn_only=true: the schedule has no say over the other turns, which weigh 0")
    if warmup > steps:
        found.append(
            f"the warm-up (scheduler.warmup_steps={warmup:,}) is longer than the run (steps={steps:,}): the learning rate never reaches optim.lr0"
        )
    return found


def count_processes(settings: Settings) -> int:
    """How many processes are to be started for a job; only training and validating can share their work."""
    if settings["mode"] in ("inspect", "chat"):
        return 1
    device = settings["device"]
    return len(device) if isinstance(device, list) else settings["processes"]


def find_process_errors(settings: Settings, size: int, started: bool) -> list[str]:
    """What does not go with `size` processes, which someone else has `started` or which are to be started."""
    found, device, wanted = [], settings["device"], settings["processes"]
    if started and settings["mode"] in ("inspect", "chat"):
        found.append(f"mode={settings['mode']}: works in one process; start it without torchrun or srun")
    if started and wanted not in (1, size):
        found.append(f"processes={wanted}: {size} processes were started; leave it at 1")
    if not started and wanted > 1 and size > 1 and device not in ("auto", "cpu"):
        found.append(
            f"processes={wanted}: are processes of the CPU; of device={device} there is one for each GPU named"
        )
    if settings["mode"] in ("train", "resume") and size > settings["batch_size"]:
        found.append(
            f"batch_size={settings['batch_size']}: {size} processes share a batch, so it must be at least {size}"
        )
    if size > 1 and settings["parallel"] == "fsdp" and settings["mode"] in ("train", "resume"):
        if settings["precision"] == "fp16":
            found.append("precision=fp16: not with parallel=fsdp; use precision=bf16")
        if settings["mask_schedule"]["alignment_every_n_steps"]:
            found.append("mask_schedule.alignment_every_n_steps: not with parallel=fsdp; use parallel=ddp")
    return found


def needs_hub(settings: Settings) -> bool:
    """Whether a new run names a model, or any but a chat a data set, that is not on this machine."""
    model, data = settings["model"]["pretrained_model"], settings["data"]
    from_hub = (
        data["_target_"].endswith(".DailyDialog")
        and data.get("path") is None
        and not os.path.isdir(data.get("hub_id", ""))
    )
    model_from_hub = settings["mode"] in ("train", "inspect") and model is not None and not os.path.isdir(model)
    return model_from_hub or (from_hub and settings["mode"] != "chat")


def _targets(values: Mapping[str, Any]) -> list[str]:
    allowed_by_user = set(values.get("allow_targets", ()))
    return [
        f"{group}._target_={values[f'{group}._target_']}: not one of {', '.join(sorted(known))}; "
        f"to run this class as code, pass allow_targets=[{values[f'{group}._target_']}]"
        for group, known in TARGETS.items()
        if f"{group}._target_" in values and values[f"{group}._target_"] not in known | allowed_by_user
    ]


def _names(values: Mapping[str, Any]) -> list[str]:
    found = []
    for key in ("project", "name", "data.cache_dir"):
        value = values.get(key)
        if value is None:
            continue
        parts = Path(value).parts
        if key == "name" and (len(parts) != 1 or "/" in value or "\\" in value):
            found.append(f"name={value}: must be one path part; put folders into project")
        controls = any(unicodedata.category(character) == "Cc" for character in value)
        if key != "data.cache_dir" and (".." in parts or ":" in value or controls):
            found.append(f"{key}={value!r}: must not hold '..', ':' or control characters")
        # Room for the number of a next free name.
        if any(len(part.encode("utf-8", "surrogatepass")) > 240 for part in parts):
            found.append(f"{key}={value[:30]}...: a part of a path may have at most 240 bytes in UTF-8")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            found.append(f"{key}={value!r}: is not valid text")
    if found:
        return found
    to_write = ("project", "data.cache_dir") if values.get("mode") in ("train", "inspect") else ("data.cache_dir",)
    return [fault for key in to_write if values.get(key) for fault in _unwritable(key, Path(values[key]).absolute())]


def _unwritable(key: str, folder: Path) -> list[str]:
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not there.is_dir():
        return [f"{key}={folder}: {there} is a file, not a folder; choose another"]
    if not os.access(there, os.W_OK | os.X_OK):
        return [f"{key}={folder}: {there} cannot be written; choose another or change its permissions"]
    return []


def _old_run(values: Mapping[str, Any]) -> list[str]:
    mode, folder = values.get("mode"), values.get("resume_model_dir")
    if mode in ("train", "inspect") and folder is not None:
        return [f"resume_model_dir={folder}: goes with mode=resume, validate or chat, not with mode={mode}"]
    if mode in MODES_ON_A_RUN and folder is None:
        return [f"mode={mode} needs a run: pass resume_model_dir=<run folder>"]
    return []


def _scores(values: Mapping[str, Any]) -> list[str]:
    names, best = values.get("metrics.names", SCORE_NAMES), values.get("metrics.best", {})
    trains = values.get("mode") in ("train", "resume")  # only these choose a best checkpoint
    found = [
        f"metrics.best={best}: {name} is not computed; add it to metrics.names"
        for name in best
        if trains and name not in names
    ]
    for name, weight in dict(best).items():
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
    place = values.get("compare_with")
    if place is not None and values.get("mode") != "validate":
        found.append(f"compare_with={place}: goes with mode=validate")
    elif place is not None and not os.path.isdir(place):
        found.append(f"compare_with={place}: there is no such folder; pass a run folder that mode=validate has scored")
    return found


def _schedule(values: Mapping[str, Any]) -> list[str]:
    start, end, points = (values.get(f"mask_schedule.{name}") for name in ("start", "end", "points"))
    if start is not None and end is not None and start > end:
        return [f"mask_schedule.start={start}: must be at most mask_schedule.end={end}"]
    found = []
    for index, point in enumerate(points or ()):
        place = f"mask_schedule.points[{index}]={point}"
        if not all(0 <= number <= 1 for number in point):
            found.append(f"{place}: progress and weights must be from 0 to 1")
        if index and point[0] < points[index - 1][0]:
            found.append(f"{place}: stands behind progress {points[index - 1][0]}; order the points by progress")
    steps = values.get("schedule_steps") or values.get("steps")
    if points and steps and not found:
        try:
            build_timeline(Mask(partial(piecewise, points=points)), steps)
        except ConfigError as error:
            return error.errors
    return found


def _sizes(values: Mapping[str, Any]) -> list[str]:
    found = []
    max_len = values.get("model.max_len")
    if max_len is not None:
        for key in ("micro_batch_tokens", "metrics.batch_tokens", "model.positions"):
            if values.get(key, max_len) != "auto" and values.get(key, max_len) < max_len:
                found.append(f"{key}={values[key]}: must be at least model.max_len={max_len}")
        for key in ("metrics.max_new_tokens", "chat.max_new_tokens"):
            if (values.get(key) or 0) > max_len - 2:
                found.append(
                    f"{key}={values[key]}: must be at most {max_len - 2}, so that a context fits into "
                    f"model.max_len={max_len} beside the reply"
                )
    heads, width = values.get("model.heads"), values.get("model.width")
    if heads and width and width % heads:
        found.append(f"model.width={width}: must be a multiple of model.heads={heads}")
    return found


def _compiler(values: Mapping[str, Any]) -> list[str]:
    if values.get("compile") is not True or values.get("mode") not in ("train", "resume"):
        return []
    if values.get("activation_checkpointing"):
        return [
            "compile=true: not with activation_checkpointing=true, within which torch compiles nothing; use compile=false"
        ]
    lack = missing_compiler()
    return [f"compile=true: {lack}, or use compile=false"] if lack else []


def _home(values: Mapping[str, Any]) -> list[str]:
    starts = {key: values[key] for key in FREE_TEXTS if isinstance(values.get(key), str)}
    return [
        f"{key}={value}: '~' is not your home here; type $HOME" for key, value in starts.items() if value[:1] == "~"
    ]


def _data_files(values: Mapping[str, Any]) -> list[str]:
    if values.get("mode") == "chat":  # needs no data
        return []
    found = []
    target = values.get("data._target_", "")
    # A validation on a split of its own does without the training data, and says what it then lacks.
    apart = values.get("split") == "test" or values.get("data.validation_data_path") is not None
    spared = values.get("mode") == "validate" and values.get("split") != "train" and apart
    for key in ("data.train_data_path", "data.validation_data_path", "data.test_data_path"):
        path = values.get(key)
        if path is not None and not os.path.isfile(path) and not (spared and key == "data.train_data_path"):
            kind = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
            found.append(f"{key}={path}: {kind}; pass the path of a JSONL file")
    if target.endswith(".Jsonl") and values.get("data.train_data_path", "-") is None and not spared:
        found.append("data=jsonl needs data.train_data_path=<file.jsonl>")
    if values.get("data.path") is not None and not os.path.isdir(values["data.path"]):
        kind = "is a file, not a folder" if os.path.exists(values["data.path"]) else "does not exist"
        found.append(f"data.path={values['data.path']}: {kind}; pass the folder of DailyDialog's files")
    if target.endswith(".ChitChat") and importlib.util.find_spec("chitchat_dataset") is None:
        found.append("data=chitchat needs a package: pip install chitchat-dataset")
    return found


def _model_files(values: Mapping[str, Any]) -> list[str]:
    if values.get("mode") not in ("train", "inspect"):  # a saved run has its own weights
        return []
    model = values.get("model.pretrained_model")
    if model is not None and _looks_like_path(model) and not os.path.isdir(model):
        return [f"model.pretrained_model={model}: there is no such folder; pass a folder or a hub id as gpt2"]
    return []


def _from_scratch(values: Mapping[str, Any]) -> list[str]:
    if values.get("model.pretrained_model", "") is not None or "model.layers" in values:
        return []
    return ["model.pretrained_model=null: only model=gpt2_tiny is built from scratch; pass a hub id or a folder"]


def _looks_like_path(name: str) -> bool:
    """A hub id is `name` or `owner/name`; anything else is a path."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
