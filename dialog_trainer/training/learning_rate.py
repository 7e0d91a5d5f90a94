"""Learning-rate schedules: the factor on `lr0` as a pure function of the step (from 0).

Warm-up multiplies the schedule's own factor by `step / warmup_steps`. Past `schedule_steps` the factor stays at its
end value, unless `past_end`. `cosine` and `linear` are those of the original program, which follows them past the end.
"""

from __future__ import annotations

import math


def cosine(step: int, *, schedule_steps: int, warmup_steps: int, lrf: float, past_end: bool = False) -> float:
    """From 1 at step 0 to `lrf` at `schedule_steps` along half a cosine."""
    progress = step / schedule_steps if past_end else min(1.0, step / schedule_steps)
    factor = (1 - lrf) * (1 + math.cos(math.pi * progress)) / 2 + lrf
    return factor * _warmup(step, warmup_steps)


def linear(step: int, *, schedule_steps: int, warmup_steps: int, lrf: float, past_end: bool = False) -> float:
    """From 1 at `warmup_steps` to `lrf` at `schedule_steps` along a line (above 1 before `warmup_steps`)."""
    if warmup_steps >= schedule_steps:
        factor = 1.0  # the run ends within the warm-up: there is no line to follow
    else:
        reached = step if past_end else min(step, schedule_steps)
        progress = (reached - warmup_steps) / (schedule_steps - warmup_steps)
        factor = 1 - (1 - lrf) * progress
    return factor * _warmup(step, warmup_steps)


def constant(step: int, *, schedule_steps: int, warmup_steps: int) -> float:
    """1 after the warm-up."""
    return _warmup(step, warmup_steps)


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0
