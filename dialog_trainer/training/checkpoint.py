"""Checkpoints: a plain Hugging Face directory plus `trainer/`, published complete or not at all.

    weights/
      step-00000300/    config.json, model.safetensors, tokenizer.json ..., trainer/{state.json,optimizer.safetensors},
                        manifest.json (bytes and sha256 of every other file)
      last, best_metric, best_loss -> step-...      relative links

No file is a pickle. How a save at step 300 goes, when `last` points to step-200 and `best_loss` to step-100, and the
validation at step 300 had the lowest loss:

    1. write    .aside-4711-...    all files, then manifest.json with their hashes; fsync each
    2. rename   .aside-4711-... -> step-00000300    atomic: a directory of that name is complete
    3. relink   best_loss -> step-00000300, then last -> step-00000300    each by an atomic rename
    4. remove   step-00000200, step-00000100    no link points to them

A process killed during 1 or 2 leaves `last` at step 200 and a directory without a link, which the next save removes. Killed
during 3 it may leave `last` at 200 and `best_loss` at 300; a resume from `last` repeats the validation and relinks both.
Killed during 4 it leaves directories without a link. At each moment every link points to a complete checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
# A directory without these is no checkpoint, whatever its manifest says.
REQUIRED = {"config.json", "trainer/state.json", "trainer/optimizer.safetensors"}
# Names of directories that this module makes, and may remove; others in `weights/` belong to the user.
_OWN_NAME = re.compile(r"step-\d{8,}(-\d+)?|\.(aside|gone)-.*")


def collect_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> tuple[Tensors, Tensors]:
    """Full weights and full optimizer state, by name, on rank 0. All ranks call this together."""
    weights = model.state_dict(keep_vars=True)  # a tied weight, of two names, stays one tensor
    return parallel.gather_full_tensors(weights), parallel.gather_full_tensors(_optimizer_tensors(model, optimizer))


def save_checkpoint(
    weights: Path,
    links: Iterable[str],
    *,
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    tensors: tuple[Tensors, Tensors],
    state: Mapping[str, Any],
) -> None:
    """Publishes a checkpoint in the directory `weights` and points `links` to it.

    `tensors` are those of `collect_tensors`; `state`, with its key `step`, becomes `trainer/state.json`. Raises
    `TrainingError` where it cannot be written; the earlier checkpoints then stay as they were.
    """
    try:
        weights.mkdir(exist_ok=True)
        _remove_unlinked(weights)
        directory = _unused_directory(weights, state["step"])
        with atomic_directory(weights.parent, f"{weights.name}/{directory.name}") as temporary:
            (temporary / "trainer").mkdir()
            model.save_pretrained(temporary, state_dict=tensors[0], safe_serialization=True)
            tokenizer.save(temporary)
            save_file(tensors[1], temporary / "trainer" / "optimizer.safetensors")
            (temporary / "trainer" / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            _write_manifest(temporary)
        for link in sorted(links, key=lambda link: link == "last"):  # `last` at the end: see step 3 above
            _swap_link(weights / link, directory.name)
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
    """The verified checkpoint directory of a run: `last`, `metric` (best) or `loss` (best). Raises `CheckpointError`."""
    weights = run / "weights"
    links = {kind: weights / name for kind, name in LINKS.items() if (weights / name).exists()}
    if load_model_type not in links:
        remedy = f"pass load_model_type={next(iter(links))}" if links else "the run saved none: start it again"
        raise CheckpointError(f"{run} has no checkpoint {LINKS[load_model_type]!r}; {remedy}")
    directory = links[load_model_type].resolve()
    damage = _find_damage(directory)
    if damage:
        others = (kind for kind, link in links.items() if link.resolve() != directory)
        intact = next((kind for kind in others if not _find_damage(links[kind].resolve())), None)
        remedy = f"pass load_model_type={intact}, which is intact" if intact else "no intact checkpoint is left"
        raise CheckpointError(
            f"the checkpoint {links[load_model_type]} is damaged and cannot be used: {damage}; {remedy}"
        )
    return directory


def drop_later_best(weights: Path, directory: Path, step: int) -> dict[str, int]:
    """Points best links of later steps to `directory`, the checkpoint of `step`; returns the old step of each.

    For a resume from an earlier checkpoint: what came after it is no longer part of the run.
    """
    later = {}
    for name in ("best_metric", "best_loss"):
        link = weights / name
        if link.exists() and link.resolve() != directory:
            best_step = read_state(link)["step"]
            if best_step > step:
                _swap_link(link, directory.name)
                later[name] = best_step
    return later


def read_state(directory: Path) -> dict[str, Any]:
    """`trainer/state.json` of a checkpoint."""
    state: dict[str, Any] = json.loads((directory / "trainer" / "state.json").read_text(encoding="utf-8"))
    return state


def load_optimizer(directory: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Loads the saved moments into `optimizer`, sharded as its parameters; its options (decay, betas ...) stay."""
    saved = load_file(directory / "trainer" / "optimizer.safetensors")
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


def _write_manifest(directory: Path) -> None:
    files = {
        path.relative_to(directory).as_posix(): [path.stat().st_size, sha256_of_file(path)]
        for path in sorted(path for path in directory.rglob("*") if path.is_file())
    }
    (directory / MANIFEST).write_text(json.dumps({"format": 1, "files": files}, indent=2), encoding="utf-8")


def _find_damage(directory: Path) -> str | None:
    """What is wrong with a checkpoint directory; None if every byte is as it was written."""
    try:
        files = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
        missing = sorted(REQUIRED - set(files))
        if missing:
            return f"{directory / MANIFEST} does not name {', '.join(missing)}"
        for name, (size, digest) in files.items():
            path = directory / name
            if path.stat().st_size != size:
                return f"{path} has {path.stat().st_size:,} bytes instead of {size:,}"
            if sha256_of_file(path) != digest:
                return f"{path} has changed since it was written (sha256 differs)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{directory}: {error}"
    return None


def _unused_directory(weights: Path, step: int) -> Path:
    """A step can be saved more than once: before and after its validation, or in another attempt."""
    name = f"step-{step:08d}"
    candidates = (weights / (name if count == 1 else f"{name}-{count}") for count in range(1, 10_000))
    return next(directory for directory in candidates if not directory.exists())


def _swap_link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.symlink_to(target, target_is_directory=True)
    os.replace(temporary, link)


def _remove_unlinked(weights: Path) -> None:
    """Removes our directories without a link; what cannot be removed now is tried again at the next save."""
    with contextlib.suppress(OSError):
        for path in weights.iterdir():
            if path.is_symlink() and path.name.startswith("."):
                path.unlink()  # left by a process that was killed in `_swap_link`
        linked = {os.readlink(path) for path in weights.iterdir() if path.is_symlink()}
        for directory in weights.iterdir():
            if _OWN_NAME.fullmatch(directory.name) and not directory.is_symlink() and directory.name not in linked:
                # Renamed first: a directory that is removed in part must not look like a checkpoint.
                hidden = directory.name.startswith(".")
                doomed = directory if hidden else directory.rename(weights / f".gone-{directory.name}")
                shutil.rmtree(doomed, ignore_errors=True)
