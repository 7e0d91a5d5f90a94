"""Checks of names, paths and files of a configuration. No torch."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dialog_trainer.config.commands import command_of
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import all_settings, show
from dialog_trainer.files import names_like, why_no_folder, why_unreadable

Values = Mapping[str, Any]

# A file that holds a whole model: of llama.cpp, and a checkpoint of the original program.
MODEL_FILES = (".gguf", ".pt")
# Ends of names that say that a text is a file of dialogues.
DATA_FILES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".gz", ".zst")
# Keys of `data` that hold paths, of built-in sources and of the user's own.
_PATH_KEY = re.compile(r"(path|file|folder|directory|dir)s?$|^(hub_)?id$|^sources$")


def check_names(values: Values) -> list[str]:
    """The errors of names and paths as texts."""
    found = []
    for key, setting in all_settings(Config).items():
        value = values.get(key)
        if setting.is_free_text and isinstance(value, str) and value.startswith("~"):
            found.append(f"{key}={value}: '~' is not your home here; type $HOME")
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
    return found


def check_folders(values: Values) -> list[str]:
    """The errors of folders that are to be written."""
    command = command_of(values)
    writes = command is not None and command.needs_data and not command.works_on_saved_run
    keys = ("project", "data.cache_dir") if writes else ("data.cache_dir",)
    found = (_blocked_folder(key, Path(values[key]).absolute()) for key in keys if values.get(key))
    return [error for error in found if error]


def check_runs(values: Values) -> list[str]:
    """The errors of folders of runs."""
    command, places = command_of(values), values.get("runs")
    if command is None:
        return []
    if places is not None and not command.takes_runs:
        shown = show(places[0] if len(places) == 1 else list(places))
        return [f"runs={shown}: goes with mode=report or mode=validate, not with mode={command.name}"]
    if not places and command.takes_runs and not command.works_on_saved_run:
        return [f"mode={command.name} needs runs: pass runs=<folder of a sweep>, or runs=[<run folder>,<run folder>]"]
    return find_missing_runs(places or ())


def find_missing_runs(places: Iterable[str]) -> list[str]:
    """The errors of values of `runs` that name nothing."""
    return [
        f"runs={place}: no folder of a run or of a sweep matches" if glob.has_magic(place)
        else f"runs={place}: {why_no_folder(place)}"
        for place in places
        if not expand_runs((place,))
    ]  # fmt: skip


def expand_runs(places: Iterable[str]) -> list[Path]:
    """The folders that `runs` names: those that are there, and for a pattern the folders of runs and sweeps that match, sorted."""
    found: dict[Path, None] = {}
    for place in places:
        if os.path.isdir(place):
            found[Path(place)] = None
        elif glob.has_magic(place):
            found |= {
                Path(match): None
                for match in sorted(glob.glob(place))
                if any(os.path.isfile(os.path.join(match, name)) for name in ("args.yaml", "sweep.json"))
            }
    return list(found)


def check_data_files(values: Values) -> list[str]:
    """The errors of files of dialogues."""
    command = command_of(values)
    if command is not None and not command.needs_data:
        return []
    found = []
    target = values.get("data._target_", "")
    # A validation on a split of its own needs no training data, and says what it then lacks.
    apart = values.get("split") == "test" or values.get("data.validation_data_path") is not None
    spared = (
        command is not None
        and command.works_on_saved_run
        and not command.trains
        and values.get("split") != "train"
        and apart
    )
    if target in ("dialog_trainer.data.sources.Files", "dialog_trainer.data.sources.Jsonl"):
        for split in ("train", "validation", "test"):
            path: str | None = values.get(f"data.{split}_data_path")
            if path is None or (spared and split == "train"):
                continue
            if problem := _why_no_data(path):
                remedy = ("" if glob.has_magic(path) else names_like(path)) or "; pass a file, a folder or a pattern"
                found.append(f"data.{split}_data_path={path}: {problem}{remedy}")
        if values.get("data.train_data_path", "-") is None and not spared:
            found.append("data=files needs data.train_data_path=<file, folder or pattern>")
    if target == "dialog_trainer.data.sources.Hub" and values.get("data.id", "-") is None:
        found.append("data=hub needs data.id=<owner/name, or a folder with its files>")
    folder = values.get("data.path")
    if target == "dialog_trainer.data.sources.Mixture":
        found += _check_mixture(values)
    if target.endswith("sources.DailyDialog") and folder is not None and not os.path.isdir(folder):
        remedy = "pass the folder of DailyDialog's files"
        problem = f"is a file, not a folder; {remedy}" if os.path.exists(folder) else why_no_folder(folder, remedy)
        found.append(f"data.path={folder}: {problem}")
    if target.endswith("sources.ChitChat") and importlib.util.find_spec("chitchat_dataset") is None:
        found.append("data=chitchat needs a package: pip install chitchat-dataset")
    return found


def _check_mixture(values: Values) -> list[str]:
    sources, weights = values.get("data.sources", ()), values.get("data.weights")
    if sources is None:
        return ["data=mixture needs data.sources=[<file, folder, pattern or id of the hub>,...]"]
    found = [f"data.sources: {place} is named twice; data.weights takes one more often" for place in _repeated(sources)]
    for place in sources:
        if not is_hub_id(place) and (problem := _why_no_data(place)):
            near = "" if glob.has_magic(place) else names_like(place)
            found.append(
                f"data.sources: {place}: {problem}{near or '; pass files, folders, patterns or ids of the hub'}"
            )
    if weights is not None and len(weights) != len(sources):
        found.append(f"data.weights={show(list(weights))}: must be one for each of the {len(sources)} of data.sources")
    remedies = {"train": "use data.weights, of which 0.1 takes a tenth of a source", "validation": "leave it out"}
    return found + [
        f"data.max_{split}_dialogues would take the first dialogues of the first source alone; with data=mixture {remedy}"
        for split, remedy in remedies.items()
        if values.get(f"data.max_{split}_dialogues") is not None
    ]


def _repeated(places: Iterable[str]) -> list[str]:
    return [place for place, count in Counter(places).items() if count > 1]


def is_hub_id(place: str) -> bool:
    """Whether a place of data is nothing here and reads like no file, so that it may be an id of the hub."""
    is_file = place.lower().endswith(DATA_FILES) or _looks_like_path(place)
    return not is_file and not os.path.lexists(place) and not glob.has_magic(place)


def _why_no_data(path: str) -> str | None:
    """What keeps a file, folder or pattern from being read; None if nothing."""
    if os.path.isdir(path):
        return None if os.access(path, os.R_OK | os.X_OK) else "cannot be read (permission denied)"
    if glob.has_magic(path) and not os.path.lexists(path):
        return None if any(glob.iglob(path, recursive=True)) else "no file has such a name"
    return why_unreadable(Path(path))


def with_absolute_data_paths(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a configuration with the paths of its data made absolute, so that they hold in any working folder.

    A path is a value of `data` whose key says so (`data.train_data_path`, `data.files` of a source of the user's own) and
    where something is, or that is a pattern of paths.
    """
    data = {
        key: _absolute(value) if _PATH_KEY.search(key) and key != "cache_dir" else value
        for key, value in tree["data"].items()
    }
    return {**tree, "data": data}


def _absolute(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_absolute(item) for item in value]
    is_path = isinstance(value, str) and value and (os.path.exists(value) or glob.has_magic(value))
    return os.path.abspath(value) if is_path else value


def check_model(values: Values) -> list[str]:
    """The error of a folder of a model that is not there."""
    if "model.pretrained_model" not in values:
        return []
    model = values["model.pretrained_model"]
    command = command_of(values)
    if model is None or command is None or command.works_on_saved_run:  # a saved run has its own weights
        return []
    problem = _why_no_model(model)
    return [f"model.pretrained_model={show(model)}: {problem}"] if problem else []


def _why_no_model(model: str) -> str | None:
    """What is wrong with the place of a pretrained model, with a remedy; None for a hub id and for what may be one."""
    place = Path(model)
    if os.path.isfile(model):
        if model.lower().endswith(MODEL_FILES):
            return None
        inside = f"; pass its folder {place.parent}" if model.endswith((".safetensors", ".bin", ".json")) else ""
        return f"is a file, and of files only {' and '.join(MODEL_FILES)} hold a model{inside}"
    if not os.path.isdir(model):
        if model.lower().endswith(MODEL_FILES):
            return "does not exist" + (names_like(model) or "; pass a file, a folder or a hub id as gpt2")
        return why_no_folder(model, "pass a folder or a hub id as gpt2") if _looks_like_path(model) else None
    if (place / "args.yaml").is_file() and not (place / "config.json").is_file():
        return f"is the folder of a run; pass one of its models, as {place / 'weights' / 'best_loss'}"
    if (place / "adapter_config.json").is_file():
        return (
            "holds an adapter (LoRA), not a model: pass the folder of the model merged with it, as mode=export writes it "
            "for a run of model/adapter=lora, and `merge_and_unload` of peft for others"
        )
    return None


def _blocked_folder(key: str, folder: Path) -> str | None:
    """The error of a folder that cannot be made or written; None if it can."""
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not there.is_dir():
        return f"{key}={folder}: {there} is a file, not a folder; choose another"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{key}={folder}: {there} cannot be written; choose another or change its permissions"
    return None


def _looks_like_path(name: str) -> bool:
    """Whether a model's name is a path: a hub id is `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
