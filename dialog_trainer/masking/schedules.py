"""Mask schedules: the loss weight of the user's and the assistant's turns as a pure function of progress.

Progress is `step / schedule_steps` in [0, 1], and stays 1 after it. Every weight is from 0 to 1. What no schedule
decides: the end-of-text token always weighs 1, a system turn 0, and `[CLS]` is never a target.

With `trained_role=user` the two roles change places: what is said here of the user holds for the assistant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoleWeights:
    """Loss weights at one point of the training. `by_lot`: which turns of a sequence count as the trained role's is
    drawn by hash, as many as that role has."""

    user: float
    assistant: float = 1.0
    by_lot: bool = False


MaskSchedule = Callable[[float], RoleWeights]


def step(progress: float, *, train_user_turn_mask_step: float) -> RoleWeights:
    """All turns before `train_user_turn_mask_step`, the assistant's alone from it on (the original program's rule).

    0 is the assistant alone from the start, 1 is all turns throughout.
    """
    return RoleWeights(float(_before(progress, train_user_turn_mask_step)))


def reverse_step(progress: float, *, train_user_turn_mask_step: float) -> RoleWeights:
    """The assistant's turns alone before `train_user_turn_mask_step`, all turns from it on: the order as a control.

    0 is all turns from the start, 1 is the assistant alone throughout.
    """
    return RoleWeights(float(not _before(progress, train_user_turn_mask_step)))


def random_turns(progress: float, *, train_user_turn_mask_step: float) -> RoleWeights:
    """As `step`, but the turns that leave the loss are drawn without regard to role, as many as the user has: a placebo."""
    return RoleWeights(float(_before(progress, train_user_turn_mask_step)), by_lot=True)


def linear(progress: float, *, start: float, end: float, start_weight: float, end_weight: float) -> RoleWeights:
    """The user's weight goes along a line from `start_weight`, until progress `start`, to `end_weight`, from `end` on."""
    return RoleWeights(_between(start_weight, end_weight, _share(progress, start, end)))


def cosine(progress: float, *, start: float, end: float, start_weight: float, end_weight: float) -> RoleWeights:
    """As `linear`, along half a cosine: slow at both ends."""
    share = (1 - math.cos(math.pi * _share(progress, start, end))) / 2
    return RoleWeights(_between(start_weight, end_weight, share))


def constant(progress: float, *, end_weight: float) -> RoleWeights:
    """The user's weight is `end_weight` throughout (a small one, as 0.1, is that of Weighted Instruction Tuning,
    arXiv 2507.07817)."""
    return RoleWeights(float(end_weight))


def piecewise(progress: float, *, points: Sequence[Sequence[float]]) -> RoleWeights:
    """Along lines between `points`, each `[progress, user's weight]` or `[progress, user's, assistant's weight]`.

    Before the first point and after the last their weights hold; of two points at the same progress the second holds
    from there on.
    """
    weights = [RoleWeights(*map(float, point[1:])) for point in points]
    after = next((index for index, point in enumerate(points) if point[0] > progress), len(points))
    if after in (0, len(points)):
        return weights[min(after, len(points) - 1)]
    share = _share(progress, points[after - 1][0], points[after][0])
    left, right = weights[after - 1], weights[after]
    return RoleWeights(_between(left.user, right.user, share), _between(left.assistant, right.assistant, share))


def progress_of(step: int, schedule_steps: int) -> float:
    return min(1.0, step / schedule_steps)


def _before(progress: float, switch: float) -> bool:
    return progress < switch or switch == 1


def _share(progress: float, start: float, end: float) -> float:
    """How much of the way from `start` to `end` is done, 0 to 1."""
    if progress >= end:
        return 1.0
    return max(0.0, progress - start) / (end - start) if end > start else 0.0


def _between(first: float, last: float, share: float) -> float:
    """Exact at both ends and never beyond them."""
    low, high = min(first, last), max(first, last)
    return float(min(high, max(low, first + (last - first) * share))) if share < 1 else float(last)
