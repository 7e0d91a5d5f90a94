"""The timeline of a mask, against the exhaustive evaluation of every step."""

import math
import time
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.errors import ConfigError
from dialog_trainer.masking import schedules
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights, compute_progress, declare
from dialog_trainer.masking.timeline import (
    MANY_CHANGES,
    SAMPLES,
    ScheduleTimeline,
    build_timeline,
    describe_timeline,
    weigh_roles_at_step,
)
from dialog_trainer.types import Role

NAN, INF = math.nan, math.inf


def stepwise(weights, **options):
    """A mask with a list of weights, one for each step."""
    return Mask(lambda progress: weights[round(progress * (len(weights) - 1))], **options)


def evaluate_all(mask, steps):
    """The timeline by evaluating every step; None if some step is refused."""
    at = [mask.weigh_roles(compute_progress(step, steps)) for step in range(steps + 1)]
    if not all(0 <= w.user <= 1 and 0 <= w.assistant <= 1 and w.user + w.assistant > 0 for w in at):
        return None
    changes = [step for step in range(1, steps + 1) if at[step] != at[step - 1]]
    kinds = [(w.user > 0, w.assistant > 0, w.random_roles) for w in at]
    return ScheduleTimeline(
        schedule_steps=steps,
        first=at[0],
        final=at[-1],
        changes=min(len(changes), MANY_CHANGES),
        first_change=min(changes, default=0),
        last_change=max(changes, default=0),
        final_from_step=max(changes, default=0),
        kinds=tuple((step, at[step]) for step in range(steps + 1) if kinds[step] not in kinds[:step]),
        sampled=False,
    )


def assert_exact(mask, steps):
    expected = evaluate_all(mask, steps)
    if expected is None:
        with pytest.raises(ConfigError, match="mask_schedule: "):
            build_timeline(mask, steps)
        return
    timeline = build_timeline(mask, steps)
    assert timeline == expected
    assert describe_timeline(mask, timeline) == describe_timeline(mask, expected)


ROLES, BOOLEANS = st.sampled_from([Role.USER, Role.ASSISTANT]), st.booleans()
ROLE_WEIGHTS = st.builds(RoleWeights, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.25, 1.0]), BOOLEANS)


@settings(deadline=None, max_examples=200)
@given(st.lists(ROLE_WEIGHTS, min_size=2, max_size=16), ROLES, BOOLEANS)
def test_any_schedule_of_few_steps_is_exact(weights, role, last_turn_only):
    assert_exact(stepwise(weights, trained_role=role, last_turn_only=last_turn_only), len(weights) - 1)


@st.composite
def built_in_schedules(draw, steps):
    """A built-in schedule whose points are often exactly at a step, or one rounding error away from it."""
    fraction = st.integers(0, steps).map(lambda step: step / steps)
    point = st.one_of(fraction, fraction.map(lambda x: min(1.0, math.nextafter(x, 2))), st.floats(0, 1))
    weight = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
    name = draw(st.sampled_from(["step", "reverse_step", "random_turns", "linear", "cosine", "constant", "piecewise"]))
    if name == "piecewise":
        places = sorted(draw(st.lists(point, min_size=1, max_size=6)))
        options = {"points": [[place, *draw(st.lists(weight, min_size=1, max_size=2))] for place in places]}
    elif name == "constant":
        options = {"end_weight": draw(weight)}
    elif name in ("linear", "cosine"):
        start, end = sorted((draw(point), draw(point)))
        options = {"start": start, "end": end, "start_weight": draw(weight), "end_weight": draw(weight)}
    else:
        options = {"train_user_turn_mask_step": draw(point)}
    return partial(getattr(schedules, name), **options)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.integers(1, 60), st.integers(SAMPLES, SAMPLES + 200)), ROLES, BOOLEANS, st.data())
def test_built_in_schedules_equal_the_exhaustive_evaluation(steps, role, last_turn_only, data):
    assert_exact(Mask(data.draw(built_in_schedules(steps)), role, last_turn_only), steps)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 10_000_000), st.data())
def test_switch_is_found_at_any_number_of_steps(steps, data):
    switch = data.draw(st.integers(1, steps))
    mask = Mask(partial(schedules.step, train_user_turn_mask_step=switch / steps))
    assert build_timeline(mask, steps).last_change == (switch if switch < steps else 0)


def build(name, **options):
    return partial(getattr(schedules, name), **options)


LINE = {"start": 0.25, "end": 0.75, "start_weight": 1.0, "end_weight": 0.0}


def own_schedule(progress):
    return RoleWeights(1.0 if progress < 0.3 else 0.0)


@pytest.mark.parametrize(
    "schedule",
    [
        build("step", train_user_turn_mask_step=0.3), build("linear", **LINE), build("cosine", **LINE),
        build("piecewise", points=[[place / 100, place % 3 / 2, 1 - place % 2 / 2] for place in range(101)]),
        own_schedule, lambda progress: RoleWeights(math.sin(1e9 * progress) ** 2),
    ],
)  # fmt: skip
def test_ten_million_steps_take_under_a_second(schedule):
    start = time.perf_counter()
    build_timeline(Mask(schedule), 10_000_000)
    assert time.perf_counter() - start < 1


def test_own_schedule_of_many_steps_is_sampled():
    mask = Mask(own_schedule)
    timeline = build_timeline(mask, 1_000_000)
    assert (timeline.changes, timeline.first_change, timeline.last_change) == (1, 300_000, 300_000)
    assert [step for step, _ in timeline.kinds] == [0, 300_000]
    assert (timeline.final_from_step, timeline.sampled) == (1_000_000, True)
    assert describe_timeline(mask, timeline) == (
        "all turns, assistant turns from step 300,000 (progress 0.30); the schedule was sampled and declares no "
        "final_from, so it counts as final from step 1,000,000"
    )


@pytest.mark.parametrize(("final_from", "step"), [(0.3, 300_000), (0.5, 500_000), (1, 1_000_000)])
def test_own_schedule_declares_final_from(final_from, step):
    mask = Mask(declare(final_from=final_from)(lambda progress: own_schedule(progress)))
    timeline = build_timeline(mask, 1_000_000)
    assert (timeline.last_change, timeline.final_from_step, timeline.sampled) == (300_000, step, False)
    assert describe_timeline(mask, timeline).endswith("assistant turns from step 300,000 (progress 0.30)")


def test_own_schedule_declares_points_for_its_options():
    @declare(change_points=lambda since: [since], final_from=lambda since: since)
    def own(progress, *, since):
        return RoleWeights(0.5 if progress < since else 0.0)

    timeline = build_timeline(Mask(partial(own, since=0.123)), 1_000_000)
    assert (timeline.last_change, timeline.final_from_step, timeline.sampled) == (123_000, 123_000, False)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"final_from": 0.2},
            r"declares final_from=0.2, but its weights change at step 3 of 10; declare the progress of",
        ),
        ({"final_from": 1.5}, r"final_from=1.5 of the schedule must be from 0 to 1"),
        ({"final_from": "end"}, r"final_from of the schedule fails \(TypeError: .*correct it"),
        ({"change_points": lambda since: [since]}, r"change_points of the schedule fails \(TypeError: "),
    ],
)
def test_wrong_declaration_is_an_error(options, error):
    with pytest.raises(ConfigError, match=f"mask_schedule: .*{error}"):
        build_timeline(Mask(declare(**options)(lambda progress: own_schedule(progress))), 10)


FINE, IDLE = RoleWeights(1.0), RoleWeights(0.0, 0.0)
NOTHING = (
    "mask_schedule: no turn carries weight at {}; nothing would be trained but ends of dialogues: give one role weight"
)
BEYOND = "mask_schedule: a weight is not a number from 0 to 1 at {}; correct the schedule"


@pytest.mark.parametrize(
    ("weights", "errors"),
    [
        ([FINE, FINE, IDLE], [NOTHING.format("step 2 of 2")]),
        ([IDLE, FINE], [NOTHING.format("step 0 of 1")]),
        ([IDLE] * 4, [NOTHING.format("steps 0 to 3 of 3")]),
        ([FINE, IDLE, IDLE, FINE, IDLE], [NOTHING.format("steps 1 to 2, 4 of 4")]),
        ([IDLE, FINE] * 3, [NOTHING.format("steps 0, 2, 4 of 5")]),
        ([IDLE, FINE] * 4, [NOTHING.format("steps 0, 2, 4 and more of 7")]),
        ([FINE] * 1000 + [IDLE] * 1001, [NOTHING.format("steps 1,000 to 2,000 of 2,000")]),
        ([FINE] * 1000 + [IDLE], [NOTHING.format("step 1,000 of 1,000")]),
        # Wrong weights, of either role.
        ([FINE, RoleWeights(NAN)], [BEYOND.format("step 1 of 1")]),
        ([RoleWeights(0.5, NAN), FINE], [BEYOND.format("step 0 of 1")]),
        ([FINE, RoleWeights(1.001), RoleWeights(1.001)], [BEYOND.format("steps 1 to 2 of 2")]),
        ([RoleWeights(-0.001), FINE], [BEYOND.format("step 0 of 1")]),
        ([FINE, RoleWeights(0.0, 1.001)], [BEYOND.format("step 1 of 1")]),
        ([FINE, RoleWeights(0.0, -0.001), FINE], [BEYOND.format("step 1 of 2")]),
        ([FINE, RoleWeights(INF), FINE], [BEYOND.format("step 1 of 2")]),
        ([RoleWeights(NAN), RoleWeights(math.nan), FINE], [BEYOND.format("steps 0 to 1 of 2")]),
        # Both at once.
        (
            [FINE, RoleWeights(2.0), IDLE, RoleWeights(0.0, -1.0)],
            [BEYOND.format("steps 1, 3 of 3"), NOTHING.format("step 2 of 3")],
        ),
    ],
)
def test_steps_with_wrong_weights_or_none_are_named(weights, errors):
    with pytest.raises(ConfigError) as error:
        build_timeline(stepwise(weights), len(weights) - 1)
    assert error.value.errors == errors


def test_weights_at_both_limits_and_of_one_role_are_valid():
    weights = [RoleWeights(0.0, 1.0), RoleWeights(1.0, 0.0), RoleWeights(1e-300, 0.0), RoleWeights(1.0, 1.0)]
    assert build_timeline(stepwise(weights), 3).changes == 3


def test_last_turn_only_needs_weight_on_the_trained_role():
    user_alone = [FINE, RoleWeights(1.0, 0.0), FINE]
    assert build_timeline(stepwise(user_alone), 2).changes == 2
    with pytest.raises(ConfigError, match="no turn carries weight at step 1 of 2"):
        build_timeline(stepwise(user_alone, last_turn_only=True), 2)


USER = {"trained_role": Role.USER}
LAST = {"last_turn_only": True}


@pytest.mark.parametrize(
    ("schedule", "options", "sentence"),
    [
        (build("step", train_user_turn_mask_step=0.5), {}, "all turns, assistant turns from step 15,000 (progress 0.50)"),
        (build("step", train_user_turn_mask_step=0), {}, "assistant turns throughout"),
        (build("step", train_user_turn_mask_step=1), {}, "all turns throughout"),
        (build("step", train_user_turn_mask_step=0.5), USER, "all turns, user turns from step 15,000 (progress 0.50)"),
        (build("step", train_user_turn_mask_step=0.5), LAST, "the last assistant turn of a sequence throughout"),
        (build("step", train_user_turn_mask_step=0), USER | LAST, "the last user turn of a sequence throughout"),
        (build("reverse_step", train_user_turn_mask_step=1 / 3), {}, "assistant turns, all turns from step 10,000 (progress 0.33)"),
        (
            build("random_turns", train_user_turn_mask_step=0.5),
            {},
            "all turns, as many turns as the assistant has, drawn at random, from step 15,000 (progress 0.50)",
        ),
        (
            build("random_turns", train_user_turn_mask_step=0.5),
            USER,
            "all turns, as many turns as the user has, drawn at random, from step 15,000 (progress 0.50)",
        ),
        (build("random_turns", train_user_turn_mask_step=0), LAST, "the last assistant turn of a sequence throughout"),
        (build("constant", end_weight=0.1), {}, "assistant turns and user turns at weight 0.1 throughout"),
        (build("constant", end_weight=0.1), USER, "user turns and assistant turns at weight 0.1 throughout"),
        (build("constant", end_weight=0.12345), {}, "assistant turns and user turns at weight 0.123 throughout"),
        (build("constant", end_weight=0), {}, "assistant turns throughout"),
        (
            build("linear", **LINE),
            {},
            "all turns before step 7,501, then gradually to assistant turns from step 22,500 (progress 0.75)",
        ),
        (build("piecewise", points=[[0, 0.5, 0.5]]), {}, "all turns at weight 0.5 throughout"),
        (build("piecewise", points=[[0, 1, 0]]), {}, "user turns throughout"),
        (build("piecewise", points=[[0, 0, 0.25]]), LAST, "the last assistant turn of a sequence at weight 0.25 throughout"),
        (
            build("piecewise", points=[[0, 1], [0.5, 1], [0.5, 0.1], [0.75, 0.1], [0.75, 0]]),
            {},
            "all turns before step 15,000, then in 2 changes to assistant turns from step 22,500 (progress 0.75)",
        ),
        (
            declare(change_points=())(lambda progress: RoleWeights(0.25, 0.5, random_roles=True)),
            {},
            "as many turns as the assistant has, drawn at random, at weight 0.5 and the others at weight 0.25 throughout",
        ),
    ],
)  # fmt: skip
def test_sentences(schedule, options, sentence):
    mask = Mask(schedule, **options)
    assert describe_timeline(mask, build_timeline(mask, 30_000)) == sentence


def failing(progress):
    if progress < 0.5:
        return RoleWeights(1.0)
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize(
    "schedule",
    [
        failing,
        lambda progress: RoleWeights("1" if progress >= 0.5 else 1.0),
        lambda progress: None if progress >= 0.5 else RoleWeights(1.0),
    ],
)
@pytest.mark.parametrize("function", [build_timeline, partial(weigh_roles_at_step, step=5)])
def test_failing_schedule_is_named_with_its_step(schedule, function):
    error = r"mask_schedule: the schedule fails at step 5 of 10 \(\w+Error: .*correct it: it must return RoleWeights"
    with pytest.raises(ConfigError, match=error):
        function(mask=Mask(schedule), schedule_steps=10)


def test_each_step_of_training_is_checked():
    """A wrong weight between two samples is an error at its own step."""

    def own(progress):
        return RoleWeights({7: 2.0, 8: 0.0}.get(round(progress * 1_000_000), 1.0), float(progress != 8 / 1_000_000))

    mask = Mask(own)
    assert build_timeline(mask, 1_000_000).changes == 0
    assert weigh_roles_at_step(mask, 6, 1_000_000) == RoleWeights(1.0)
    assert weigh_roles_at_step(mask, 2_000_000, 1_000_000) == RoleWeights(1.0)
    for step, error in ((7, BEYOND), (8, NOTHING)):
        with pytest.raises(ConfigError) as found:
            weigh_roles_at_step(mask, step, 1_000_000)
        assert found.value.errors == [error.format(f"step {step} of 1,000,000")]
