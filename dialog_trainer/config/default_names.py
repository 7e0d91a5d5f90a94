"""Default names of a run, made of its model and data: `outputs/gpt2/daily_dialog_chatbot`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from dialog_trainer.config.groups import DataConfig

# Folders of a run in which a model lies: the model is then called by its run.
_INSIDE_A_RUN = ("weights", "best_metric", "best_loss", "last")
# Stems of files that say nothing about the data in them.
_PLAIN_STEMS = ("train", "training", "data", "dialogues", "dialogs")
_BUILT_IN_CHOICES = ("dailydialog", "files", "hub", "jsonl", "mixture", "chitchat")
# Sources that are called by the path or id of their data.
_BY_PATH = tuple(f"dialog_trainer.data.sources.{name}" for name in ("Files", "Hub", "Jsonl"))
_MAX_BYTES = 200


def resolve_names(tree: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """The tree with `project` and `name` filled in where they are null; `choices` are those of its groups."""
    found = dict(tree)
    if found.get("project", "") is None:
        found["project"] = f"outputs/{_model_name(found.get('model'), choices)}"
    if found.get("name", "") is None:
        found["name"] = f"{_data_name(found.get('data'), choices)}_chatbot"
    return found


def _model_name(model: Any, choices: Mapping[str, str]) -> str:
    pretrained = model.get("pretrained_model") if isinstance(model, Mapping) else None
    if isinstance(pretrained, str) and pretrained.strip():
        parts = PurePath(pretrained.removesuffix(".gguf")).parts
        return _path_part([part for part in parts if part not in _INSIDE_A_RUN], "model")
    return _path_part([choices.get("model", "")], "model")


def _data_name(data: Any, choices: Mapping[str, str]) -> str:
    target = data.get("_target_") if isinstance(data, Mapping) else None
    if not isinstance(target, str):
        return "data"
    if target == "dialog_trainer.data.sources.DailyDialog":
        return "daily_dialog"
    path = data.get("id" if target.endswith("sources.Hub") else "train_data_path")
    if target in _BY_PATH and isinstance(path, str) and path.strip():
        file = PurePath(path)
        named = [*file.parent.parts, file.name.split(".")[0]]
        return _path_part([part for part in named if part.lower() not in _PLAIN_STEMS], file.stem)
    choice = choices.get("data", "")
    # A class that was typed is not that of the default choice.
    own = target not in DataConfig.TARGETS and choice in _BUILT_IN_CHOICES
    return _path_part([target.rpartition(".")[2].lower() if own or not choice else choice], "data")


def _path_part(candidates: list[str], otherwise: str) -> str:
    """The last candidate as one part of a path, without signs that a run's name may not hold."""
    for candidate in reversed(candidates):
        part = re.sub(r"[^\w.+-]+", "_", candidate).strip("._")
        if part and ".." not in part:
            return part.encode("utf-8", "ignore")[:_MAX_BYTES].decode("utf-8", "ignore")
    return otherwise
