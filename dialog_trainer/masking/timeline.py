"""What a mask does over the whole of a training: where it changes, and the same in words."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights, progress_of
from dialog_trainer.types import Role

FEW_CHANGES = 9


@dataclass(frozen=True, slots=True)
class ScheduleTimeline:
    """The weights over the steps 0 to `schedule_steps`.

    `first`, `final`: those at both ends; `changes`: how often they change from a step to the next; `first_change` and
    `final_from_step`: the steps of the first and the last change (0 and 0 without one). `kinds`: each combination of
    turns that carry weight at all, as weights, with the first step that has it.
    """

    schedule_steps: int
    first: RoleWeights
    final: RoleWeights
    changes: int
    first_change: int
    final_from_step: int
    kinds: tuple[tuple[int, RoleWeights], ...]

    def progress(self, step: int) -> float:
        return progress_of(step, self.schedule_steps)


def build_timeline(mask: Mask, schedule_steps: int) -> ScheduleTimeline:
    """Looks at every step. Raises `ConfigError` if a weight is not from 0 to 1, or if no turn carries any."""
    changed: list[int] = []
    count, previous = 0, None
    kinds: dict[tuple[bool, bool, bool], tuple[int, RoleWeights]] = {}
    wrong: list[int] = []
    empty: list[int] = []
    for step in range(schedule_steps + 1):
        weights = _weights(mask, step, schedule_steps)
        if weights != previous:
            if previous is not None:
                count += 1
                changed = [*changed[:1], step]
            good = 0 <= weights.user <= 1 and 0 <= weights.assistant <= 1
            kinds.setdefault((weights.user > 0, weights.assistant > 0, weights.by_lot), (step, weights))
            previous = weights
        if not good:
            wrong.append(step)
        elif weights.user == weights.assistant == 0:
            empty.append(step)
    faults = [
        f"mask_schedule: {what} at {_ranges(steps)} of {schedule_steps:,}; {remedy}"
        for steps, what, remedy in (
            (wrong, "a weight is not a number from 0 to 1", "mend the schedule"),
            (empty, "no turn carries weight", "nothing would be trained but ends of dialogues: give one role weight"),
        )
        if steps
    ]
    if faults:
        raise ConfigError(faults)
    first, final = mask.at(0.0), mask.at(1.0)
    ends = (changed[0], changed[-1]) if changed else (0, 0)
    return ScheduleTimeline(schedule_steps, first, final, count, *ends, tuple(kinds.values()))


def _weights(mask: Mask, step: int, schedule_steps: int) -> RoleWeights:
    """Those of a step. A schedule may be the user's own: whatever it raises is a fault of that step."""
    try:
        weights = mask.at(progress_of(step, schedule_steps))
        bool(weights.user >= 0), bool(weights.assistant >= 0)
    except Exception as error:
        raise ConfigError(
            [
                f"mask_schedule: the schedule fails at step {step:,} of {schedule_steps:,} ({type(error).__name__}: {error}); "
                "mend it: it gives RoleWeights(user, assistant) of two numbers for every progress from 0 to 1"
            ]
        ) from None
    return weights


def describe_timeline(mask: Mask, whole: ScheduleTimeline) -> str:
    """As "all turns, assistant turns from step 15,000 (progress 0.50)"."""
    first, final = _turns(mask, whole.first), _turns(mask, whole.final)
    if not whole.changes:
        return f"{first} throughout"
    at = f"step {whole.final_from_step:,} (progress {whole.progress(whole.final_from_step):.2f})"
    if whole.changes == 1:
        return f"{first}, {final} from {at}"
    how = "gradually" if whole.changes > FEW_CHANGES else f"in {whole.changes} changes"
    return f"{first} before step {whole.first_change:,}, then {how} to {final} from {at}"


def _turns(mask: Mask, weights: RoleWeights) -> str:
    if weights.user == weights.assistant:
        return "all turns" if weights.user == 1 else f"all turns at weight {weights.user:.3g}"
    named = {Role.USER: ("user", weights.user), Role.ASSISTANT: ("assistant", weights.assistant)}
    role, weight = named.pop(mask.trained_role)
    ((other, other_weight),) = named.values()
    if weights.by_lot:
        role, other = f"as many turns as the {role} has, drawn by lot,", "the others"
        shown = [(role, weight), (other, other_weight)]
    else:
        role = f"the last {role} turn of a sequence" if mask.last_turn_only else f"{role} turns"
        shown = [(role, weight), (f"{other} turns", other_weight)]
    said = [who if weight == 1 else f"{who} at weight {weight:.3g}" for who, weight in shown if weight]
    return " and ".join(said) or "no turn"


def _ranges(steps: list[int]) -> str:
    """`steps 3 to 7, 12`, at most three of them."""
    groups = [
        [step for _, step in group] for _, group in itertools.groupby(enumerate(steps), lambda pair: pair[1] - pair[0])
    ]
    shown = [f"{group[0]:,}" if len(group) == 1 else f"{group[0]:,} to {group[-1]:,}" for group in groups[:3]]
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(shown) + (" and more" if len(groups) > 3 else "")
