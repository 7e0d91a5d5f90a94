"""Everything that training needs, built; and how often it validates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from dialog_trainer.build.data import Split
from dialog_trainer.build.optimization import TrainingPlan
from dialog_trainer.config.schema import Config
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.timeline import ScheduleTimeline
from dialog_trainer.masking.validation import MaskCheckResult
from dialog_trainer.training.reproducibility import describe_environment

# Of a run whose interval is not configured.
MAX_VALIDATIONS = 20


@dataclass(frozen=True, slots=True)
class TrainingParts:
    """Everything that training needs, built. `loss` is that of `model`, parallelized over the ranks. `branch_steps`: the
    updates after which the run keeps a branch for others."""

    config: Config
    device: torch.device
    tokenizer: DialogueTokenizer
    model: PreTrainedModel
    loss: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    training: Split
    validation: Split
    mask: Mask
    timeline: ScheduleTimeline
    mask_check: MaskCheckResult
    plan: TrainingPlan
    digest: dict[str, str]
    branch_steps: tuple[int, ...] = ()

    def environment(self) -> dict[str, Any]:
        return describe_environment(self.digest, self.device, self.config.compile is True)


def validation_interval(config: Config, steps_per_epoch: int) -> int:
    """Updates between validations: as configured, else whole epochs, at most `MAX_VALIDATIONS` times."""
    if config.validate_every_n_steps is None:
        return steps_per_epoch * math.ceil(config.planned_steps / (MAX_VALIDATIONS * steps_per_epoch))
    return steps_per_epoch if config.validate_every_n_steps == "epoch" else config.validate_every_n_steps
