"""The mask of a configuration. Imports no torch."""

from __future__ import annotations

import math

from dialog_trainer.build.instantiate import instantiate
from dialog_trainer.config.schema import Config
from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.types import Role


def build_mask(config: Config) -> Mask:
    group, switch = config.mask_schedule, config.train_user_turn_mask_step
    if config.whole_epochs:  # after schedule_steps progress is 1: a switch at 1 is one at that step, not "never"
        switch = min(switch, math.nextafter(1.0, 0.0))
    schedule = instantiate(group.target, group.arguments, "mask_schedule", train_user_turn_mask_step=switch)
    try:
        weights = schedule(0.0)
    except Exception as error:  # a function of the user's own may raise anything
        raise ConfigError(
            [f"mask_schedule: {group.target} fails at progress 0: {type(error).__name__}: {error}"]
        ) from error
    if not isinstance(weights, RoleWeights):
        raise ConfigError(
            [f"mask_schedule: {group.target} gives {weights!r}, where a schedule gives RoleWeights(user, assistant)"]
        )
    return Mask(schedule, Role[group.trained_role.upper()], group.last_turn_only, group.normalize)
