"""The optimizer of a configuration, and the plan of its steps: learning rate, loss weights and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from dialog_trainer.build.instantiate import instantiate
from dialog_trainer.config.schema import Config
from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.data.packing import batch_to_device, pack_micro_batches
from dialog_trainer.data.sampler import global_batch_indices, local_shard, steps_per_epoch
from dialog_trainer.distributed import collectives
from dialog_trainer.distributed.parallel import trained_parameters
from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.timeline import weigh_roles_at_step
from dialog_trainer.types import Batch, Say

# Learning rates of `optim.lr0=auto`. That of a model from scratch is divided by its width: 4e-3 at 128, 6.7e-4 at 768.
PRETRAINED_LEARNING_RATE = 1e-4
LORA_LEARNING_RATE = 1e-3
SCRATCH_LEARNING_RATE = 0.512


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What training follows, as functions of the step. `indices`: the training sequences of the global batch."""

    learning_rate: Callable[[int], float]
    role_weights: Callable[[int], RoleWeights]
    indices: Callable[[int], np.ndarray]
    batches: Callable[[int], Iterator[Batch]]
    steps_per_epoch: int


def build_optimizer(config: Config, model: PreTrainedModel) -> torch.optim.Optimizer:
    """The optimizer of `optim`, over the trained parameters of the model. Raises `ConfigError` for what its class refuses."""
    target, arguments = config.optim.target, config.optim.arguments
    # One pass over weights, gradient and state, where the class knows it and no other way is asked for.
    one_pass = {} if {"fused", "foreach"} & arguments.keys() else {"fused": True}
    build = instantiate(target, arguments, "optim", lr=choose_learning_rate(config), **one_pass)
    tuples = {key: tuple(value) for key, value in build.keywords.items() if isinstance(value, list)}
    build = partial(build, **tuples)
    try:
        optimizer: torch.optim.Optimizer = build(trained_parameters(model))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError([f"optim: {target} refuses {build.keywords}: {error}"]) from None
    return optimizer


def choose_learning_rate(config: Config) -> float:
    """`optim.lr0` as a number: of `auto` that which fits the model."""
    if config.optim.lr0 != "auto":
        return config.optim.lr0
    if config.model.adapter.is_lora:
        return LORA_LEARNING_RATE
    return (
        PRETRAINED_LEARNING_RATE if config.model.pretrained_model else SCRATCH_LEARNING_RATE / config.model.sizes.width
    )


def resolve_learning_rate(config: Config, say: Say) -> Config:
    """The configuration with a number for `optim.lr0`; says what `auto` became."""
    if config.optim.lr0 != "auto":
        return config
    options, chosen = config.model, choose_learning_rate(config)
    kind = "a pretrained model" if options.pretrained_model else f"a model from scratch of width {options.width}"
    kind = "the adapter of a pretrained model" if options.adapter.is_lora else kind
    say(f"optim.lr0=auto: {chosen:g}, for {kind}")
    return config.replace({"optim.lr0": chosen})


def plan_training(
    config: Config, training: TokenDataset, trained_indices: np.ndarray, mask: Mask, device: torch.device
) -> TrainingPlan:
    """Learning rate, weights and batches of every step, over the sequences at `trained_indices` `(K,)`."""
    seed, batch_size, schedule_steps = config.seed, config.batch_size, config.planned_steps
    own = {"warmup_steps": config.scheduler.warmup_steps, **config.scheduler.arguments}
    factor = instantiate(
        config.scheduler.target, own, "scheduler", schedule_steps=schedule_steps, past_end=config.whole_epochs
    )

    def role_weights(step: int) -> RoleWeights:
        return weigh_roles_at_step(mask, step, schedule_steps)

    def indices_of(step: int) -> np.ndarray:
        chosen: np.ndarray = trained_indices[global_batch_indices(seed, step, len(trained_indices), batch_size)]
        return chosen

    def batches(step: int) -> Iterator[Batch]:
        indices = indices_of(step)
        indices = indices[local_shard(training.lengths[indices], collectives.world_size(), collectives.rank())]
        weigh = partial(mask.weigh_tokens, role_weights=role_weights(step))
        for batch in pack_micro_batches(training, indices, weigh, config.forward_tokens):
            yield batch_to_device(batch, device)

    lr0 = choose_learning_rate(config)
    return TrainingPlan(
        lambda step: lr0 * factor(step),
        role_weights,
        indices_of,
        batches,
        steps_per_epoch(len(trained_indices), batch_size),
    )
