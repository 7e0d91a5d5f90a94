"""Checkpoints: a plain Hugging Face folder and `trainer/`, published whole, never half.

    weights/
      step-00000300/    config.json, model.safetensors, tokenizer.json ..., trainer/{state.json,optimizer.safetensors},
                        manifest.json (bytes and sha256 of every other file)
      last, best_metric, best_loss -> step-...      relative links, swapped by rename

A folder is written aside, fsynced, hashed and renamed; then the links are swapped; only then are folders removed to
which no link points. No file is a pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import parallel
from dialog_trainer.errors import CheckpointError, TrainingError
from dialog_trainer.files import atomic_directory, sha256_of_file, sync_path

LINKS = {"last": "last", "metric": "best_metric", "loss": "best_loss"}
MANIFEST = "manifest.json"
Tensors = dict[str, torch.Tensor]
# Without these a folder is no checkpoint, whatever its manifest says.
REQUIRED = {"config.json", "trainer/state.json", "trainer/optimizer.safetensors"}
# The folders that are made, and so removed, here; what a user puts beside them stays.
_OURS = re.compile(r"step-\d{8,}(-\d+)?|\.(aside|gone)-.*")


def collect_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> tuple[Tensors, Tensors]:
    """The weights of the model and the state of its optimizer, whole, by name. Called by all processes of a group."""
    weights = model.state_dict(keep_vars=True)  # a weight that has two names stays one
    return parallel.gather_full_tensors(weights), parallel.gather_full_tensors(_optimizer_tensors(model, optimizer))


def save_checkpoint(
    weights: Path,
    names: Iterable[str],
    *,
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    content: tuple[Tensors, Tensors],
    state: dict,
) -> None:
    """Publishes a checkpoint of `content`, as `tensors` gave it, of `state["step"]` under the links `names`. Raises `TrainingError` if it cannot be written.

    Whatever happens, the links point to whole checkpoints.
    """
    try:
        weights.mkdir(exist_ok=True)
        _remove_unlinked(weights)
        folder = _free_name(weights, state["step"])
        with atomic_directory(folder) as temporary:
            (temporary / "trainer").mkdir()
            model.save_pretrained(temporary, state_dict=content[0], safe_serialization=True)
            tokenizer.save(temporary)
            save_file(content[1], temporary / "trainer" / "optimizer.safetensors")
            (temporary / "trainer" / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            _write_manifest(temporary)
        # `last` at the end: after a kill in between, the older one makes this validation, and its links, again.
        for name in sorted(names, key=lambda name: name == "last"):
            _swap_link(weights / name, folder.name)
        sync_path(weights)
    except (OSError, SafetensorError) as error:
        _remove_unlinked(weights)
        free = shutil.disk_usage(weights.parent).free / 2**20
        raise TrainingError(
            f"the checkpoint of step {state['step']} could not be written to {weights}: {error} ({free:,.0f} MiB free). "
            "The earlier checkpoints are untouched: make room, then mode=resume load_model_type=last"
        ) from None
    _remove_unlinked(weights)


def find_checkpoint(run: Path, load_model_type: str) -> Path:
    """The checkpoint folder of a run, verified. Raises `CheckpointError`."""
    weights = run / "weights"
    link = weights / LINKS[load_model_type]
    if not link.exists():
        there = [kind for kind, name in LINKS.items() if (weights / name).exists()]
        remedy = f"pass load_model_type={there[0]}" if there else "the run saved none: start it anew"
        raise CheckpointError(f"{run} has no checkpoint {LINKS[load_model_type]!r}; {remedy}")
    folder = link.resolve()
    fault = _find_damage(folder)
    if fault:
        others = [
            kind
            for kind, name in LINKS.items()
            if (weights / name).exists()
            and (weights / name).resolve() != folder
            and not _find_damage((weights / name).resolve())
        ]
        remedy = f"pass load_model_type={others[0]}, which is whole" if others else "no whole checkpoint is left"
        raise CheckpointError(f"the checkpoint {link} is broken and not used: {fault}; {remedy}")
    return folder


def drop_later_best(weights: Path, folder: Path, step: int) -> dict[str, int]:
    """Points the best links that a later step holds to `folder`, and returns them with that step.

    Who goes on from an earlier checkpoint leaves what came after it: it is no longer the best of this run.
    """
    later = {}
    for name in ("best_metric", "best_loss"):
        link = weights / name
        if link.exists() and link.resolve() != folder:
            there = read_state(link)["step"]
            if there > step:
                _swap_link(link, folder.name)
                later[name] = there
    return later


def read_state(folder: Path) -> dict:
    return json.loads((folder / "trainer" / "state.json").read_text(encoding="utf-8"))


def load_optimizer(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Puts the saved state into `optimizer`; its settings (decay, betas ...) stay those it was made with."""
    saved = load_file(folder / "trainer" / "optimizer.safetensors")
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, torch.Tensor]] = {}
    for index, name in enumerate(_parameter_names(model, optimizer)):
        slots = {
            key.split("/", 1)[0]: parallel.shard_like(value, parameters[name])
            for key, value in saved.items()
            if key.split("/", 1)[1] == name
        }
        if slots:
            state[index] = slots
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


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


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, sha256_of_file(path)]
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": files}, indent=2), encoding="utf-8")


def _find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, None if every byte is as it was written."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        missing = sorted(REQUIRED - set(files))
        if missing:
            return f"{folder / MANIFEST} does not name {', '.join(missing)}"
        for name, (size, digest) in files.items():
            path = folder / name
            if path.stat().st_size != size:
                return f"{path} has {path.stat().st_size:,} bytes instead of {size:,}"
            if sha256_of_file(path) != digest:
                return f"{path} has other bytes than were written (sha256 differs)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder}: {error}"
    return None


def _free_name(weights: Path, step: int) -> Path:
    """A step can be saved more than once: before and after its validation, or in another attempt."""
    name = f"step-{step:08d}"
    candidates = (weights / (name if count == 1 else f"{name}-{count}") for count in range(1, 10_000))
    return next(folder for folder in candidates if not folder.exists())


def _swap_link(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}-{os.getpid()}")
    aside.symlink_to(target, target_is_directory=True)
    os.replace(aside, link)


def _remove_unlinked(weights: Path) -> None:
    """Removes the folders to which no link points; what cannot be removed now is tried again at the next save."""
    with contextlib.suppress(OSError):
        for path in weights.iterdir():
            if path.is_symlink() and path.name.startswith("."):
                path.unlink()  # left by a process that was killed before it swapped the link
        linked = {os.readlink(path) for path in weights.iterdir() if path.is_symlink()}
        for folder in weights.iterdir():
            if _OURS.fullmatch(folder.name) and not folder.is_symlink() and folder.name not in linked:
                # Renamed first: a folder half removed must not look like a checkpoint.
                doomed = folder if folder.name.startswith(".") else folder.rename(weights / f".gone-{folder.name}")
                shutil.rmtree(doomed, ignore_errors=True)
