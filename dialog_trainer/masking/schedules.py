"""Mask schedules: the loss weight of each role as a pure function of progress.

Progress is `step / schedule_steps` in [0, 1], and stays 1 after it. A role that a schedule does not name weighs 0:
`[CLS]` and system turns are never trained. The end-of-text token is always trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dialog_trainer.records import Role

RoleWeights = Mapping[Role, float]
MaskSchedule = Callable[[float], RoleWeights]


def step(progress: float, *, train_user_turn_mask_step: float) -> RoleWeights:
    """All turns before `train_user_turn_mask_step`, the assistant's alone from it on (the original program's rule).

    0 is the assistant alone from the start, 1 is all turns throughout.
    """
    user_is_trained = progress < train_user_turn_mask_step or train_user_turn_mask_step == 1
    return {Role.USER: float(user_is_trained), Role.ASSISTANT: 1.0, Role.END: 1.0}


def progress_of(step: int, schedule_steps: int) -> float:
    return min(1.0, step / schedule_steps)


def final_from_step(schedule: MaskSchedule, schedule_steps: int) -> int:
    """The first step from which the weights no longer change."""
    final = schedule(1.0)
    first = schedule_steps
    while first > 0 and schedule(progress_of(first - 1, schedule_steps)) == final:
        first -= 1
    return first
