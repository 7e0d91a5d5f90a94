"""The content of a checkpoint: a plain Hugging Face directory plus `trainer/`. No file is a pickle.

    config.json, model.safetensors, tokenizer.json ...    what `from_pretrained` of transformers reads
    adapter_config.json, adapter_model.safetensors ...    in their place where an adapter is trained: what peft reads
    trainer/state.json, trainer/optimizer.safetensors     what a resume needs besides
    manifest.json                                         bytes and sha256 of every other file; written last

Where checkpoints lie, and how one takes the place of another, is in `checkpoint_directory.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import parallel
from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import atomic_directory, open_to_read, read_bounded, sha256_of_file
from dialog_trainer.training.saved_state import STATE_FILE

MANIFEST = "manifest.json"
# The model that the adapters of a run belong to, below the run.
BASE = "base"
OPTIMIZER_FILE = "trainer/optimizer.safetensors"
Tensors = dict[str, torch.Tensor]
# A directory without these is no checkpoint, whatever its manifest says; nor is one with the configs of both.
REQUIRED = {STATE_FILE, OPTIMIZER_FILE}
MODEL_CONFIG = "config.json"
# Next to a model it makes transformers load another one.
ADAPTER_CONFIG = "adapter_config.json"
MAX_MANIFEST_BYTES = 2**20


class Manifest(BaseModel, strict=True):
    """`manifest.json`: bytes and sha256 of each file, by its path below the checkpoint."""

    format: int
    files: dict[str, tuple[Annotated[int, Field(ge=0)], Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]]]


def collect_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> tuple[Tensors, Tensors]:
    """Full trained weights and full optimizer state, by name, on rank 0. All ranks call this together."""
    adapter = getattr(model, "adapter", None)
    # A tied weight, of two names, stays one tensor.
    weights = adapter.trained_tensors() if adapter else model.state_dict(keep_vars=True)
    return parallel.gather_full_tensors(weights), parallel.gather_full_tensors(_optimizer_tensors(model, optimizer))


def write_checkpoint(
    directory: Path,
    *,
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    tensors: tuple[Tensors, Tensors],
    state: Mapping[str, Any],
) -> None:
    """Fills an empty directory. `tensors` are those of `collect_tensors`; `state` has the fields of `SavedState`.

    Raises `OSError` or `SafetensorError` where the disk takes no more.
    """
    (directory / "trainer").mkdir()
    adapter = getattr(model, "adapter", None)
    if adapter:
        adapter.save(directory, tensors[0], BASE)
    else:
        model.save_pretrained(directory, state_dict=tensors[0], safe_serialization=True)
    tokenizer.save(directory)
    save_file(tensors[1], directory / OPTIMIZER_FILE)
    (directory / STATE_FILE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    write_manifest(directory)


def write_manifest(directory: Path) -> None:
    """Writes `manifest.json` of a directory: bytes and sha256 of all other files below it."""
    files = {
        path.relative_to(directory).as_posix(): (path.stat().st_size, sha256_of_file(path))
        for path in sorted(path for path in directory.rglob("*") if path.is_file())
    }
    (directory / MANIFEST).write_text(Manifest(format=1, files=files).model_dump_json(indent=2), encoding="utf-8")


def write_base(run: Path, model: PreTrainedModel, tokenizer: DialogueTokenizer) -> None:
    """Writes the model without its adapter into the run, once: `base/`, a Hugging Face directory with a manifest."""
    with atomic_directory(run, BASE) as directory:
        model.save_pretrained(directory, state_dict=model.adapter.base_weights(), safe_serialization=True)  # type: ignore[operator, union-attr]  # set by `add_lora`
        tokenizer.save(directory)
        write_manifest(directory)


def digest_base(run: Path) -> str | None:
    """The sha256 of the manifest of `base/`; None where the run has none."""
    with contextlib.suppress(FileNotFoundError):
        return hashlib.sha256(read_bounded(run, f"{BASE}/{MANIFEST}", MAX_MANIFEST_BYTES)).hexdigest()
    return None


def find_base(run: Path, digest: str | None) -> Path:
    """`base/` of a run, every byte of it as a checkpoint with this digest of its manifest knows it. Raises `CheckpointError`."""
    try:
        found = digest_base(run)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from None
    if found is None:
        raise CheckpointError(f"{run / BASE} is missing: it holds the model of the adapters; copy it from the run")
    damage = (
        "it is not the one that this checkpoint was trained on"
        if found != digest
        else _find_damage(run, BASE, frozenset())
    )
    if damage:
        raise CheckpointError(f"{run / BASE} cannot be used: {damage}")
    return run / BASE


def find_damage(run: Path, checkpoint: str) -> str | None:
    """What is wrong with a checkpoint, a directory below the run; None if every byte is as it was written."""
    return _find_damage(run, checkpoint, REQUIRED)


def _find_damage(run: Path, directory: str, required: Set[str]) -> str | None:
    path = run / directory

    def check_names(names: Set[str]) -> str | None:
        missing = sorted(required - names)
        if missing:
            return f"{path / MANIFEST} does not name {', '.join(missing)}"
        if not names & {MODEL_CONFIG, ADAPTER_CONFIG}:
            return f"{path / MANIFEST} names neither {MODEL_CONFIG} nor {ADAPTER_CONFIG}"
        if MODEL_CONFIG in names and os.path.lexists(path / ADAPTER_CONFIG):
            return f"{path / ADAPTER_CONFIG} names another model: remove it"
        return None

    return compare_with_manifest(run, directory, check_names)


def compare_with_manifest(
    run: Path, directory: str, check_names: Callable[[Set[str]], str | None] = lambda names: None
) -> str | None:
    """What differs between a directory below the run and its manifest; `check_names` says what is wrong with its names."""
    path = run / directory
    try:
        files = Manifest.model_validate_json(read_bounded(run, f"{directory}/{MANIFEST}", MAX_MANIFEST_BYTES)).files
        wrong = check_names(files.keys())
        if wrong:
            return wrong
        for name, (size, digest) in files.items():
            with open_to_read(run, f"{directory}/{name}") as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    return f"{path / name} has {found:,} bytes instead of the {size:,} of {MANIFEST}"
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{path / name} and {MANIFEST} differ (sha256): one of them has changed since it was written"
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{path / MANIFEST} is no manifest: {'.'.join(map(str, first['loc']))} {first['msg']}"
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        return f"{getattr(error, 'filename', None) or path}: {getattr(error, 'strerror', None) or error}"
    return None


def load_optimizer(directory: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Loads the saved moments into `optimizer`, sharded as its parameters; its options (decay, betas ...) stay.

    Raises `CheckpointError` unless each tensor has the name, shape and type that this optimizer gives to it: its kernels
    do not check, and would write over other memory.
    """
    path = directory / OPTIMIZER_FILE
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    parameters = dict(model.named_parameters())
    names = _parameter_names(model, optimizer)
    by_name: dict[str, Tensors] = {}
    for key, value in saved.items():
        slot, _, name = key.partition("/")
        by_name.setdefault(name, {})[slot] = value
    unknown = sorted(by_name.keys() - set(names))
    if unknown:
        raise CheckpointError(f"{path} holds state of {unknown[0]!r}, which is no trained weight of this model")
    for name, slots in by_name.items():
        expected = _expected_slots(optimizer, parameters[name])
        found = {slot: (tuple(value.shape), value.dtype) for slot, value in slots.items()}
        if expected is not None and found != expected:
            raise CheckpointError(
                f"{path} does not fit {name} and {type(optimizer).__name__}: it holds {_describe(found)}, "
                f"and should hold {_describe(expected)}"
            )
    state = {
        index: {slot: parallel.shard_like(value, parameters[name]) for slot, value in by_name[name].items()}
        for index, name in enumerate(names)
        if name in by_name
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# How an update is computed, and what it is computed for.
_HOW = ("params", "fused", "foreach")
Slots = dict[str, tuple[tuple[int, ...], torch.dtype]]


def _expected_slots(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> Slots | None:
    """Shape and type of each state tensor of a parameter: those of one update of a copy without data.

    None for a class of the user's own, whose state may have any form.
    """
    kind: Any = type(optimizer)
    if not kind.__module__.startswith("torch.optim."):
        return None
    [group] = [group for group in optimizer.param_groups if any(parameter is other for other in group["params"])]
    options = {key: group[key] for key in inspect.signature(kind).parameters if key in group and key not in _HOW}
    stand_in = torch.nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"))
    stand_in.grad = torch.empty_like(stand_in)
    probe = kind([stand_in], **options)
    probe.step()
    return {
        slot: (tuple(value.shape), value.dtype)
        for slot, value in probe.state[stand_in].items()
        if isinstance(value, torch.Tensor)
    }


def _describe(slots: Slots) -> str:
    named = (f"{slot} {list(shape)} {str(dtype).removeprefix('torch.')}" for slot, (shape, dtype) in slots.items())
    return ", ".join(sorted(named)) or "nothing"


def _optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Tensors:
    names = _parameter_names(model, optimizer)
    return {
        f"{slot}/{names[index]}": value.contiguous()
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
        if isinstance(value, torch.Tensor)
    }


def _parameter_names(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names in the order in which the optimizer numbers its parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
