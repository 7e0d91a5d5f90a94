"""Timeline of a mask: the steps at which its weights change, found without evaluating every step, and a sentence for it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, islice, pairwise
from typing import Any

from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights, compute_progress
from dialog_trainer.types import Role

# Changes are counted no further: so many are "gradual".
MANY_CHANGES = 10
# A schedule without declared change points is evaluated at so many steps and one more, both ends included.
SAMPLES = 512

_NOT_A_WEIGHT = "a weight is not a number from 0 to 1"
_NO_WEIGHT = "no turn carries weight"
_REMEDIES = {
    _NOT_A_WEIGHT: "correct the schedule",
    _NO_WEIGHT: "nothing would be trained but ends of dialogues: give one role weight",
}


@dataclass(frozen=True, slots=True)
class ScheduleTimeline:
    """The weights over steps 0 to `schedule_steps`.

    `first` and `final`: the weights at both ends. `changes`: how often they change from a step to the next, counted up to
    `MANY_CHANGES`. `first_change` and `last_change`: the steps of the first and the last change, 0 without one.
    `final_from_step`: from this step on the weights count as final, and `patience` counts. `kinds`: for each combination
    of roles with a weight above 0, the first step that has it and the weights there. `sampled`: changes between the
    evaluated steps may be missed, and `final_from_step` is the end.

    Example: `step` with a switch at 0.5 over 10 steps, trained role assistant.

        step     0 1 2 3 4   5 6 7 8 9 10
        user     1 1 1 1 1   0 0 0 0 0 0        first RoleWeights(1, 1), final RoleWeights(0, 1), changes 1,
        assist.  1 1 1 1 1   1 1 1 1 1 1        first_change = last_change = final_from_step = 5,
                                                kinds ((0, RoleWeights(1, 1)), (5, RoleWeights(0, 1)))
    """

    schedule_steps: int
    first: RoleWeights
    final: RoleWeights
    changes: int
    first_change: int
    last_change: int
    final_from_step: int
    kinds: tuple[tuple[int, RoleWeights], ...]
    sampled: bool

    def progress(self, step: int) -> float:
        return compute_progress(step, self.schedule_steps)


def build_timeline(mask: Mask, schedule_steps: int) -> ScheduleTimeline:
    """Finds the changes of `mask` from a few evaluations, whatever the number of steps.

    With declared change points (see `schedules.declare`) all changes are found exactly; so are those of any schedule of
    at most `SAMPLES` steps. Any other schedule is sampled, and between two samples one change is looked for.

    Raises `ConfigError` if the schedule fails, if a weight is not a number from 0 to 1, if at some step no turn carries
    weight, or if weights change after a declared `final_from`.
    """
    change_points, final_from = _declaration(mask, "change_points"), _declaration(mask, "final_from")
    sampled = change_points is None and schedule_steps > SAMPLES
    if change_points is None:
        bounds = {round(sample * schedule_steps / SAMPLES) for sample in range(SAMPLES + 1)}
    else:
        starts = {_first_step(point, schedule_steps) for point in change_points}
        bounds = {0, schedule_steps, *starts, *(start - 1 for start in starts)}
    intervals = list(pairwise(sorted(step for step in bounds if 0 <= step <= schedule_steps)))

    @cache
    def weights(step: int) -> RoleWeights:
        return _evaluate(mask, step, schedule_steps)

    def find_changes(value: Callable[[int], object], backwards: bool = False) -> Iterator[int]:
        for low, high in reversed(intervals) if backwards else intervals:
            yield from islice(_find_changes(value, low, high, backwards), 1 if sampled else None)

    kind_steps = [0, *find_changes(lambda step: _kind(weights(step)))]
    errors = _find_errors([(step, weights(step)) for step in kind_steps], schedule_steps)
    if errors:
        raise ConfigError(errors)
    kinds: dict[tuple[bool, bool, bool], tuple[int, RoleWeights]] = {}
    for step in kind_steps:
        there = weights(step)
        kinds.setdefault((there.user > 0, there.assistant > 0, there.random_roles), (step, there))
    changes = list(islice(find_changes(weights), MANY_CHANGES))
    last_change = next(find_changes(weights, backwards=True), 0)
    final_from_step = schedule_steps if sampled else last_change
    if final_from is not None:
        final_from_step = _check_final_from(final_from, last_change, schedule_steps)
    return ScheduleTimeline(
        schedule_steps=schedule_steps,
        first=weights(0),
        final=weights(schedule_steps),
        changes=len(changes),
        first_change=changes[0] if changes else 0,
        last_change=last_change,
        final_from_step=final_from_step,
        kinds=tuple(kinds.values()),
        sampled=sampled and final_from is None,
    )


def weigh_roles_at_step(mask: Mask, step: int, schedule_steps: int) -> RoleWeights:
    """The weights of the roles at a step of training; a sampled schedule is checked here.

    Raises `ConfigError` if the schedule fails, a weight is not a number from 0 to 1, or no turn carries weight.
    """
    step = min(step, schedule_steps)
    weights = _evaluate(mask, step, schedule_steps)
    errors = _find_errors([(step, weights)], schedule_steps, step)
    if errors:
        raise ConfigError(errors)
    return weights


def describe_timeline(mask: Mask, timeline: ScheduleTimeline) -> str:
    """The timeline as a sentence: "all turns, assistant turns from step 15,000 (progress 0.50)"."""
    first, final = _describe_turns(mask, timeline.first), _describe_turns(mask, timeline.final)
    last_change = f"step {timeline.last_change:,} (progress {timeline.progress(timeline.last_change):.2f})"
    if not timeline.changes:
        sentence = f"{first} throughout"
    elif timeline.changes == 1:
        sentence = f"{first}, {final} from {last_change}"
    else:
        manner = "gradually" if timeline.changes >= MANY_CHANGES else f"in {timeline.changes} changes"
        sentence = f"{first} before step {timeline.first_change:,}, then {manner} to {final} from {last_change}"
    if timeline.sampled:
        sentence += (
            f"; the schedule was sampled and declares no final_from, so it counts as final from step "
            f"{timeline.final_from_step:,}"
        )
    return sentence


def _declaration(mask: Mask, name: str) -> Any:
    """What the schedule, a function or a `partial` with its options, declares as `name`; None if it declares nothing."""
    schedule = mask.schedule
    function, options = (schedule.func, schedule.keywords) if isinstance(schedule, partial) else (schedule, {})
    declared = getattr(function, name, None)
    try:
        declared = declared(**options) if callable(declared) else declared
        if declared is None:
            return None
        numbers: Sequence[float] = declared if name == "change_points" else [declared]
        if all(0 <= number <= 1 for number in numbers):
            return declared
    except Exception as error:
        raise ConfigError(
            [f"mask_schedule: {name} of the schedule fails ({type(error).__name__}: {error}); correct it"]
        ) from None
    raise ConfigError([f"mask_schedule: {name}={declared} of the schedule must be from 0 to 1; correct it"])


def _first_step(progress: float, schedule_steps: int) -> int:
    """The first step with at least this progress, by comparing progress values: rounding cannot move it."""
    return bisect_left(range(schedule_steps + 1), progress, key=lambda step: compute_progress(step, schedule_steps))


def _find_changes(value: Callable[[int], object], low: int, high: int, backwards: bool) -> Iterator[int]:
    """The steps in (low, high] whose value differs from that of the step before, by bisection. Equal values at both ends
    of an interval must mean that nothing changes in it."""
    if value(low) == value(high):
        return
    if high - low == 1:
        yield high
        return
    middle = (low + high) // 2
    halves = ((low, middle), (middle, high))
    for half in reversed(halves) if backwards else halves:
        yield from _find_changes(value, *half, backwards)


def _evaluate(mask: Mask, step: int, schedule_steps: int) -> RoleWeights:
    """The weights at a step. A schedule may be the user's own code: whatever it raises is a `ConfigError` of that step."""
    try:
        weights = mask.weigh_roles(compute_progress(step, schedule_steps))
        _kind(weights)
    except Exception as error:
        raise ConfigError(
            [
                f"mask_schedule: the schedule fails at step {step:,} of {schedule_steps:,} "
                f"({type(error).__name__}: {error}); correct it: it must return RoleWeights(user, assistant) of two "
                "numbers for every progress from 0 to 1"
            ]
        ) from None
    return weights


def _kind(weights: RoleWeights) -> tuple[bool, ...]:
    """Which weights are above 0 and which are valid. It changes at most twice for each weight that only rises or falls."""
    user, assistant = weights.user, weights.assistant
    return weights.random_roles, user > 0, 0 <= user <= 1, assistant > 0, 0 <= assistant <= 1


def _find_errors(kinds: list[tuple[int, RoleWeights]], schedule_steps: int, last_step: int | None = None) -> list[str]:
    """The errors of weights that each hold, in kind, from their step to before the next, the last until `last_step`."""
    ends = [*(step - 1 for step, _ in kinds[1:]), schedule_steps if last_step is None else last_step]
    spans: dict[str, list[tuple[int, int]]] = {}
    for problem, group in groupby(zip(kinds, ends, strict=True), key=lambda entry: _find_problem(entry[0][1])):
        entries = list(group)
        spans.setdefault(problem, []).append((entries[0][0][0], entries[-1][1]))
    return [
        f"mask_schedule: {problem} at {_format_steps(spans[problem])} of {schedule_steps:,}; {remedy}"
        for problem, remedy in _REMEDIES.items()
        if problem in spans
    ]


def _find_problem(weights: RoleWeights) -> str:
    if not (0 <= weights.user <= 1 and 0 <= weights.assistant <= 1):
        return _NOT_A_WEIGHT
    return _NO_WEIGHT if weights.user == weights.assistant == 0 else ""


def _check_final_from(final_from: float, last_change: int, schedule_steps: int) -> int:
    step = _first_step(final_from, schedule_steps)
    if last_change > step:
        raise ConfigError(
            [
                f"mask_schedule: the schedule declares final_from={final_from}, but its weights change at step "
                f"{last_change:,} of {schedule_steps:,}; declare the progress of the last change"
            ]
        )
    return step


def _describe_turns(mask: Mask, weights: RoleWeights) -> str:
    if weights.user == weights.assistant:
        return "all turns" if weights.user == 1 else f"all turns at weight {weights.user:.3g}"
    roles = [("user", weights.user), ("assistant", weights.assistant)]
    (role, weight), (other, other_weight) = roles if mask.trained_role == Role.USER else reversed(roles)
    if weights.random_roles:
        turns, other_turns = f"as many turns as the {role} has, drawn at random,", "the others"
    else:
        turns = f"the last {role} turn of a sequence" if mask.last_turn_only else f"{role} turns"
        other_turns = f"{other} turns"
    shown = [
        who if weight == 1 else f"{who} at weight {weight:.3g}"
        for who, weight in ((turns, weight), (other_turns, other_weight))
        if weight
    ]
    return " and ".join(shown) or "no turn"


def _format_steps(spans: Sequence[tuple[int, int]]) -> str:
    """`steps 3 to 7, 12`: at most three of the `spans` (first step, last step)."""
    shown = [f"{first:,}" if first == last else f"{first:,} to {last:,}" for first, last in spans[:3]]
    single = len(spans) == 1 and spans[0][0] == spans[0][1]
    return ("step " if single else "steps ") + ", ".join(shown) + (" and more" if len(spans) > 3 else "")
