"""Compares checkpoints bit for bit, and says where two first differ."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from dialog_trainer.training.checkpoint import MANIFEST
from dialog_trainer.training.saved_state import STATE_FILE

# Keys of the state, and of the configuration in it, that name the run or the command and are no result of training.
_OF_THE_RUN = {"attempt", "run_id"}
_OF_THE_COMMAND = {"project", "name", "mode", "resume_model_dir", "load_model_type"}


def compare_checkpoints(expected: Path, found: Path) -> str | None:
    """The first place where two checkpoint directories differ, tensors first; None if all files are equal.

    The manifest, and what names the run or the command in the state, may differ.
    """
    names = _list_files(expected) | _list_files(found)
    for name in sorted(names, key=lambda name: (not name.endswith(".safetensors"), name)):
        one, other = expected / name, found / name
        if not (one.is_file() and other.is_file()):
            return f"{name}: is missing in {found if one.is_file() else expected}"
        if name == STATE_FILE:
            difference = find_value_difference(_read_state(one), _read_state(other))
        elif filecmp.cmp(one, other, shallow=False):
            difference = None
        elif name.endswith(".safetensors"):
            difference = find_tensor_difference(one, other) or "the header differs"
        else:
            readable = name.endswith(".json")
            difference = find_value_difference(_read_json(one), _read_json(other)) if readable else None
            difference = difference or "the bytes differ"
        if difference:
            return f"{name}: {difference}"
    return None


def find_tensor_difference(expected: Path, found: Path) -> str | None:
    """The first tensor of a safetensors file, by name, and its first value, whose bits differ in the other file."""
    with safe_open(expected, "pt") as first, safe_open(found, "pt") as second:
        names = set(first.keys()), set(second.keys())
        for name in sorted(names[0] | names[1]):
            if name not in names[0] or name not in names[1]:
                return f"{name} is missing in {found if name in names[0] else expected}"
            difference = _compare_tensors(first.get_tensor(name), second.get_tensor(name))
            if difference:
                return f"{name}{difference}"
    return None


def find_value_difference(expected: Any, found: Any, place: str = "") -> str | None:
    """The first key, in the order of `expected`, whose value differs in another JSON value; 1 and 1.0 differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys: Iterable[Any] = dict.fromkeys([*expected, *found])
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        keys = range(len(expected))
    else:
        same = json.dumps(expected) == json.dumps(found)
        return None if same else f"{place}: {json.dumps(found)} instead of {json.dumps(expected)}"
    for key in keys:
        inner = f"{place}, {key}" if place else str(key)
        if isinstance(expected, dict) and not (key in expected and key in found):
            return f"{inner}: is {'missing' if key in expected else 'new'}"
        difference = find_value_difference(expected[key], found[key], inner)
        if difference:
            return difference
    return None


def _compare_tensors(expected: torch.Tensor, found: torch.Tensor) -> str | None:
    """`[index]: value instead of value`; NaN equals NaN of the same bits, and 0.0 is not -0.0."""
    kinds = [f"{str(one.dtype).removeprefix('torch.')} {list(one.shape)}" for one in (expected, found)]
    if kinds[0] != kinds[1]:
        return f": is {kinds[1]} instead of {kinds[0]}"
    bits = [one.reshape(-1, 1).contiguous().view(torch.uint8) for one in (expected, found)]
    differs = (bits[0] != bits[1]).any(1)
    count = int(differs.sum())
    if not count:
        return None
    flat = int(differs.to(torch.uint8).argmax())
    index = [int(part) for part in torch.unravel_index(torch.tensor(flat), expected.shape)]
    values = [one.reshape(-1)[flat].item() for one in (expected, found)]
    return f"{index}: {values[1]!r} instead of {values[0]!r} ({count:,} of {expected.numel():,} values differ)"


def _list_files(checkpoint: Path) -> set[str]:
    files = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    return files - {MANIFEST}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_state(path: Path) -> dict[str, Any]:
    state = _read_json(path)
    config = {key: value for key, value in state.get("config", {}).items() if key not in _OF_THE_COMMAND}
    return {key: value for key, value in state.items() if key not in _OF_THE_RUN} | {"config": config}
