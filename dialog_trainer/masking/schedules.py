"""Mask schedules: the loss weights of user and assistant turns as a pure function of training progress.

Progress is `step / schedule_steps` in [0, 1]; it stays 1 after the schedule. Weights are from 0 to 1. No schedule decides
the rest: the end-of-text token always has weight 1, a system turn 0, and `[CLS]` is never a target.

With `trained_role=user` the two roles change places: what a schedule says of the user holds for the assistant.

A schedule of your own is one function; this one trains all turns until progress 0.3, then the assistant's:

    @declare(final_from=0.3)
    def early_switch(progress: float) -> RoleWeights:
        return RoleWeights(1.0 if progress < 0.3 else 0.0)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class RoleWeights:
    """The loss weights of the two roles at one point of training, from 0 to 1.

    `random_roles`: the turns that count as the trained role's are drawn at random (by a hash), as many as that role has.
    See `Mask.draw_roles` for an example.
    """

    user: float
    assistant: float = 1.0
    random_roles: bool = False


MaskSchedule = Callable[[float], RoleWeights]
_Schedule = TypeVar("_Schedule", bound=Callable[..., RoleWeights])


def declare(
    *,
    change_points: Sequence[float] | Callable[..., Sequence[float]] | None = None,
    final_from: float | Callable[..., float] | None = None,
) -> Callable[[_Schedule], _Schedule]:
    """Decorator: declares what a schedule does over the whole of training, so that not every step must be evaluated.

    `change_points`: between two of these progress values (and before the first, after the last) each weight only rises,
    only falls or is constant, and `random_roles` is constant. With them every change is found exactly. `final_from`: from
    this progress on nothing changes; `patience` counts from there. Both may be functions of the schedule's options.
    Without either a schedule is sampled, and its end counts as final.
    """

    def mark(schedule: _Schedule) -> _Schedule:
        for name, declared in (("change_points", change_points), ("final_from", final_from)):
            if declared is not None:
                setattr(schedule, name, declared)
        return schedule

    return mark


def _switch_point(train_user_turn_mask_step: float) -> list[float]:
    return [train_user_turn_mask_step]


def _ramp_points(start: float, end: float, **_weights: float) -> list[float]:
    return [start, end]


@declare(change_points=_switch_point)
def step(progress: float, *, train_user_turn_mask_step: float) -> RoleWeights:
    """All turns before progress `train_user_turn_mask_step`, assistant turns from it on (the original program's rule).

    0: assistant turns from the start. 1: all turns throughout.
    """
    return RoleWeights(float(_before(progress, train_user_turn_mask_step)))


@declare(change_points=_switch_point)
def reverse_step(progress: float, *, train_user_turn_mask_step: float) -> RoleWeights:
    """Assistant turns before progress `train_user_turn_mask_step`, all turns from it on: a control for the order.

    0: all turns from the start. 1: assistant turns throughout.
    """
    return RoleWeights(float(not _before(progress, train_user_turn_mask_step)))


@declare(change_points=_switch_point)
def random_turns(progress: float, *, train_user_turn_mask_step: float) -> RoleWeights:
    """As `step`, but the turns that leave the loss are drawn at random, as many as the user has: a placebo.

    In an ablation it separates the effect of *which* turns leave the loss from that of how many.
    """
    return RoleWeights(float(_before(progress, train_user_turn_mask_step)), random_roles=True)


@declare(change_points=_ramp_points)
def linear(progress: float, *, start: float, end: float, start_weight: float, end_weight: float) -> RoleWeights:
    """The user's weight is `start_weight` until progress `start`, then a line to `end_weight`, from progress `end` on."""
    return RoleWeights(_interpolate(start_weight, end_weight, _position(progress, start, end)))


@declare(change_points=_ramp_points)
def cosine(progress: float, *, start: float, end: float, start_weight: float, end_weight: float) -> RoleWeights:
    """As `linear`, but along half a cosine: slow at both ends."""
    position = (1 - math.cos(math.pi * _position(progress, start, end))) / 2
    return RoleWeights(_interpolate(start_weight, end_weight, position))


@declare(change_points=())
def constant(progress: float, *, end_weight: float) -> RoleWeights:
    """The user's weight is `end_weight` throughout. A small one, as 0.1, is Weighted Instruction Tuning (arXiv
    2507.07817)."""
    return RoleWeights(float(end_weight))


@declare(change_points=lambda points: [point[0] for point in points])
def piecewise(progress: float, *, points: Sequence[Sequence[float]]) -> RoleWeights:
    """Lines between `points`, sorted by progress: `[progress, user's weight]` or `[progress, user's, assistant's weight]`.

    The weights are constant before the first point and after the last. Of two points at the same progress the second
    holds from there on.
    """
    after = bisect_right(points, progress, key=itemgetter(0))
    left, right = _point_weights(points[max(after - 1, 0)]), _point_weights(points[min(after, len(points) - 1)])
    if after in (0, len(points)):
        return left
    position = _position(progress, points[after - 1][0], points[after][0])
    return RoleWeights(
        _interpolate(left.user, right.user, position), _interpolate(left.assistant, right.assistant, position)
    )


def compute_progress(step: int, schedule_steps: int) -> float:
    return min(1.0, step / schedule_steps)


def _before(progress: float, switch: float) -> bool:
    return progress < switch or switch == 1


def _point_weights(point: Sequence[float]) -> RoleWeights:
    return RoleWeights(float(point[1]), float(point[2]) if len(point) > 2 else 1.0)


def _position(progress: float, start: float, end: float) -> float:
    """How far `progress` is on the way from `start` to `end`: 0 to 1."""
    if progress >= end:
        return 1.0
    return max(0.0, progress - start) / (end - start) if end > start else 0.0


def _interpolate(first: float, last: float, position: float) -> float:
    """From `first` at position 0 to `last` at position 1: exact at both ends and never beyond them."""
    low, high = min(first, last), max(first, last)
    return float(min(high, max(low, first + (last - first) * position))) if position < 1 else float(last)
