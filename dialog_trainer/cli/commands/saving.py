"""Saves the checkpoints of a run: the tensors are copied, and a thread writes them while training goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dialog_trainer.amounts import format_bytes
from dialog_trainer.cli.commands.branches import keep_branch
from dialog_trainer.cli.commands.parts import TrainingParts
from dialog_trainer.distributed import collectives
from dialog_trainer.tracking.run_directory import read_run_id
from dialog_trainer.training.checkpoint import Tensors, collect_tensors, digest_base
from dialog_trainer.training.checkpoint_directory import BEST
from dialog_trainer.training.checkpoint_publishing import save_checkpoint
from dialog_trainer.training.loop import TrainingState
from dialog_trainer.training.memory import free_bytes, state_size

# Of the free memory, what a copy of weights and optimizer state may take; above it, training waits for each save.
COPY_FRACTION = 0.25


class CheckpointSaver:
    """At most one save is in flight: the next one, a stop and the end wait for it. All ranks call it alike."""

    def __init__(self, folder: Path, parts: TrainingParts):
        self.folder, self._parts = folder, parts
        self._environment = parts.environment()
        self._run_id = read_run_id(folder) if collectives.is_rank0() else None
        self._base = digest_base(folder) if collectives.is_rank0() else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._running: Future[None] | None = None
        self._last_save = time.monotonic()

    def describe(self) -> str:
        """What the checkpoints will take on the disk, and how they are written."""
        trained = sum(one.numel() * 4 for one in self._parts.model.parameters() if one.requires_grad)
        size = trained * (1 + state_size(self._parts.optimizer))
        most = self._parts.config.keep_checkpoints + len(BEST) + 1  # one is written before an old one goes
        free = shutil.disk_usage(self.folder).free
        short = "; that may not be enough: make room" if size * most > free else ""
        return (
            f"checkpoints: about {format_bytes(size)} each, at most {most} ({format_bytes(size * most)}) in "
            f"{self.folder / 'weights'}, {format_bytes(free)} free{short}"
        )

    def due(self, step: int) -> bool:
        """Whether the steps or the minutes between saves are over."""
        config = self._parts.config
        every, minutes = config.save_every_n_steps, config.save_every_minutes
        late = minutes is not None and collectives.any_rank(time.monotonic() - self._last_save >= 60 * minutes)
        return step > 0 and (late or (every is not None and step % every == 0))

    def save(self, state: TrainingState) -> None:
        """Publishes the present state as the last checkpoint, and as the best one of a validation at this step.

        Raises `TrainingError` where this one, or the one before, could not be written.
        """
        self._save(state, save_checkpoint, keep=self._parts.config.keep_checkpoints)
        self._last_save = time.monotonic()

    def keep_branch(self, state: TrainingState) -> None:
        """Keeps the present state for runs that fork from it; the checkpoints of the run stay as they are."""
        self._save(state, keep_branch)

    def wait(self) -> None:
        """Returns once what was saved is on the disk. Raises `TrainingError` where it could not be written."""
        collectives.broadcast_from_rank0(self._finish)

    def close(self) -> None:
        """Waits as `wait` does, and raises nothing."""
        self._thread.shutdown()

    def _save(self, state: TrainingState, write: Callable[..., None], **options: Any) -> None:
        parts, best = self._parts, state.best
        record = {
            **asdict(state),
            "epoch": state.step // parts.plan.steps_per_epoch,
            "schedule_steps": parts.config.schedule_steps,
            "mask_final_from_step": parts.timeline.final_from_step,
            "kept": {"last": state.step, "best_metric": best.score_step, "best_loss": best.loss_step},
            "loss_scale": parts.scaler.state_dict(),
            "held_out": parts.validation.dialogues.digest,
            **self._environment,
            "config": parts.config.to_dict(),
            "run_id": self._run_id,
            "base": self._base,
            "new_token_ids": getattr(getattr(parts.model, "adapter", None), "new_ids", []),
        }
        tensors = collect_tensors(parts.model, parts.optimizer)
        content = {"model": parts.model, "tokenizer": parts.tokenizer, "state": record, **options}
        collectives.broadcast_from_rank0(lambda: self._start(tensors, partial(write, self.folder, **content)))

    def _start(self, tensors: tuple[Tensors, Tensors], write: Callable[..., None]) -> None:
        self._finish()
        size = sum(tensor.nbytes for group in tensors for tensor in group.values())
        free = free_bytes(torch.device("cpu"))
        if free is None or size > COPY_FRACTION * free:
            write(tensors=tensors)
        else:
            self._running = self._thread.submit(write, tensors=(_copy(tensors[0]), _copy(tensors[1])))

    def _finish(self) -> None:
        running, self._running = self._running, None
        if running:
            running.result()


def _copy(tensors: Tensors) -> Tensors:
    """A copy on the CPU; a tied weight, whose names share their memory, stays one tensor."""
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for tensor in tensors.values():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True)
    return {name: copies[tensor.data_ptr(), tensor.shape] for name, tensor in tensors.items()}
