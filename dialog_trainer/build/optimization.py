"""build.optimization."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
import numpy as np
import torch
from transformers import PreTrainedModel
from dialog_trainer.build.instantiate import instantiate
from dialog_trainer.config.options import Settings
from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.data.packing import batch_to_device
from dialog_trainer.data.packing import pack_micro_batches
from dialog_trainer.data.sampler import global_batch_indices
from dialog_trainer.data.sampler import local_shard
from dialog_trainer.data.sampler import steps_per_epoch
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.timeline import weigh_roles_at_step
from dialog_trainer.types import Batch



@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What training follows, as functions of the step."""

    learning_rate: Callable[[int], float]
    role_weights: Callable[[int], RoleWeights]
    batches: Callable[[int], Iterator[Batch]]
    steps_per_epoch: int


def build_optimizer(settings: Settings, of: PreTrainedModel) -> torch.optim.Optimizer:
    node = {key: value for key, value in settings["optim"].items() if key != "lr0"}
    node |= {key: tuple(value) for key, value in node.items() if isinstance(value, list)}
    # One pass over weights, gradient and state, where the class knows it and no other way is asked for.
    one_pass = {} if {"fused", "foreach"} & node.keys() else {"fused": True}
    build = instantiate(node, "optim", lr=settings["optim"]["lr0"], **one_pass)
    try:
        return build(of.parameters())
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError([f"optim: {node['_target_']} refuses {build.keywords}: {error}"]) from None


def plan_training(settings: Settings, training: TokenDataset, kept: np.ndarray, of: Mask, on: torch.device) -> TrainingPlan:
    """Learning rate, weights and batches of every step, over the sequences at `kept`.

    `settings["schedule_steps"]` must be a number by now.
    """
    seed, batch_size, schedule_steps = settings["seed"], settings["batch_size"], settings["schedule_steps"]
    factor = instantiate(settings["scheduler"], "scheduler", schedule_steps=schedule_steps)

    def role_weights(step: int) -> RoleWeights:
        return weigh_roles_at_step(of, step, schedule_steps)

    def batches(step: int) -> Iterator[Batch]:
        indices = kept[global_batch_indices(seed, step, len(kept), batch_size)]
        indices = indices[local_shard(training.lengths[indices], collectives.world_size(), collectives.rank())]
        weigh = partial(of.weigh_tokens, role_weights=role_weights(step))
        for batch in pack_micro_batches(training, indices, weigh, settings["micro_batch_tokens"]):
            yield batch_to_device(batch, on)

    lr0 = settings["optim"]["lr0"]
    return TrainingPlan(lambda step: lr0 * factor(step), role_weights, batches, steps_per_epoch(len(kept), batch_size))
