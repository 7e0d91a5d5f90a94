"""A mask schedule: the user's turns leave the loss exponentially."""

import math

from dialog_trainer.masking.schedules import RoleWeights


def exponential(progress: float, *, rate: float) -> RoleWeights:
    """Loss weights at `progress` (0 to 1) of the training; each weight from 0 to 1."""
    return RoleWeights(user=math.exp(-rate * progress), assistant=1.0)
