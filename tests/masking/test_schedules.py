import math
from functools import partial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dialog_trainer.masking.schedules import (
    RoleWeights,
    compute_progress,
    constant,
    cosine,
    linear,
    piecewise,
    random_turns,
    reverse_step,
    step,
)

SHARES = st.floats(0, 1)
HALF_COSINE = (1 - math.cos(math.pi / 4)) / 2  # a quarter of the way


@pytest.mark.parametrize(
    ("switch", "progress", "user_weight"),
    [
        (0, 0.0, 0), (0, 1.0, 0),
        (0.5, 0.0, 1), (0.5, 0.4999, 1), (0.5, 0.5, 0), (0.5, 1.0, 0),
        (0.9999, 0.9998, 1), (0.9999, 1.0, 0),
        (1, 0.0, 1), (1, 0.9999, 1), (1, 1.0, 1),
    ],
)  # fmt: skip
def test_switches_at_their_borders(switch, progress, user_weight):
    assert step(progress, train_user_turn_mask_step=switch) == RoleWeights(user_weight, 1.0, False)
    assert reverse_step(progress, train_user_turn_mask_step=switch) == RoleWeights(1 - user_weight, 1.0, False)
    assert random_turns(progress, train_user_turn_mask_step=switch) == RoleWeights(user_weight, 1.0, True)


@settings(deadline=None)
@given(SHARES, SHARES)
def test_reverse_step_mirrors_step_and_random_turns_equals_it(progress, switch):
    straight = step(progress, train_user_turn_mask_step=switch)
    assert straight.user in (0.0, 1.0)
    assert reverse_step(progress, train_user_turn_mask_step=switch) == RoleWeights(1 - straight.user)
    assert random_turns(progress, train_user_turn_mask_step=switch) == RoleWeights(straight.user, random_roles=True)


@pytest.mark.parametrize(
    ("start", "end", "weights", "progress", "of_linear", "of_cosine"),
    [
        (0.25, 0.75, (1, 0), 0.0, 1, 1),
        (0.25, 0.75, (1, 0), 0.25, 1, 1),
        (0.25, 0.75, (1, 0), 0.375, 0.75, 1 - HALF_COSINE),
        (0.25, 0.75, (1, 0), 0.5, 0.5, 0.5),
        (0.25, 0.75, (1, 0), 0.625, 0.25, HALF_COSINE),
        (0.25, 0.75, (1, 0), 0.75, 0, 0),
        (0.25, 0.75, (1, 0), 1.0, 0, 0),
        # Upwards, between other weights than 0 and 1, over all of training.
        (0, 1, (0.2, 0.6), 0.0, 0.2, 0.2),
        (0, 1, (0.2, 0.6), 0.25, 0.3, 0.2 + 0.4 * HALF_COSINE),
        (0, 1, (0.2, 0.6), 1.0, 0.6, 0.6),
        # Both points the same: a step, at 0 and at 1 too.
        (0.5, 0.5, (1, 0), 0.4999, 1, 1), (0.5, 0.5, (1, 0), 0.5, 0, 0),
        (0, 0, (1, 0), 0.0, 0, 0), (1, 1, (1, 0), 0.9999, 1, 1), (1, 1, (1, 0), 1.0, 0, 0),
    ],
)  # fmt: skip
def test_linear_and_cosine_at_their_borders(start, end, weights, progress, of_linear, of_cosine):
    options = {"start": start, "end": end, "start_weight": weights[0], "end_weight": weights[1]}
    for schedule, expected in ((linear, of_linear), (cosine, of_cosine)):
        found = schedule(progress, **options)
        assert found == RoleWeights(pytest.approx(expected, abs=1e-12), 1.0, False)
        if progress <= start or progress >= end:
            assert found.user == expected  # exactly: otherwise the last change would come a step late


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([linear, cosine]), *[SHARES] * 6)
def test_linear_and_cosine_are_bounded_and_monotone(schedule, start, end, start_weight, end_weight, one, other):
    start, end = sorted((start, end))
    at = partial(schedule, start=start, end=end, start_weight=start_weight, end_weight=end_weight)
    earlier, later = at(min(one, other)).user, at(max(one, other)).user
    assert all(min(start_weight, end_weight) <= user <= max(start_weight, end_weight) for user in (earlier, later))
    assert (later - earlier) * (1 if end_weight >= start_weight else -1) >= -1e-15
    assert at(1.0).user == end_weight
    assert at(0.0).user == (start_weight if end > 0 else end_weight)


@settings(deadline=None)
@given(SHARES, SHARES)
def test_constant_never_changes(progress, weight):
    assert constant(progress, end_weight=weight) == RoleWeights(weight, 1.0, False)


@pytest.mark.parametrize(
    ("points", "progress", "expected"),
    [
        # Before the first point and after the last.
        ([[0.2, 0.4], [0.6, 0.8]], 0.0, (0.4, 1)), ([[0.2, 0.4], [0.6, 0.8]], 1.0, (0.8, 1)),
        ([[0.2, 0.4], [0.6, 0.8]], 0.3, (0.5, 1)),
        ([[0.5, 0.3]], 0.0, (0.3, 1)), ([[0.5, 0.3]], 0.5, (0.3, 1)), ([[0.5, 0.3]], 1.0, (0.3, 1)),
        # A jump: the second point holds from there on, and of three the third.
        ([[0, 1], [0.5, 1], [0.5, 0.1], [1, 0]], 0.4999, (1, 1)),
        ([[0, 1], [0.5, 1], [0.5, 0.1], [1, 0]], 0.5, (0.1, 1)),
        ([[0, 1], [0.5, 1], [0.5, 0.1], [1, 0]], 0.75, (0.05, 1)),
        ([[0, 1], [0.5, 1], [0.5, 0.7], [0.5, 0.1]], 0.5, (0.1, 1)),
        ([[0, 1], [0, 0.5], [1, 0.5]], 0.0, (0.5, 1)), ([[0, 1], [1, 1], [1, 0]], 1.0, (0, 1)),
        # The assistant's weight too; 1 where a point does not name it.
        ([[0, 1, 0], [1, 0, 1]], 0.25, (0.75, 0.25)), ([[0, 1, 0.5], [1, 0]], 0.5, (0.5, 0.75)),
        ([[0, 1], [0, 0, 0.5]], 0.0, (0, 0.5)),
    ],
)  # fmt: skip
def test_piecewise_by_hand(points, progress, expected):
    user, assistant = expected
    assert piecewise(progress, points=points) == RoleWeights(
        pytest.approx(user, abs=1e-12), pytest.approx(assistant, abs=1e-12), False
    )


@st.composite
def point_lists(draw):
    """Points in order, some at the same progress."""
    places = draw(st.lists(st.one_of(SHARES, st.integers(0, 4).map(lambda n: n / 4)), min_size=1, max_size=6))
    return [[place, draw(SHARES), draw(SHARES)] for place in sorted(places)]


@settings(deadline=None, max_examples=300)
@given(point_lists(), SHARES)
def test_piecewise_is_a_line_from_point_to_point(points, progress):
    for index, (place, user, assistant) in enumerate(points):
        if index == len(points) - 1 or points[index + 1][0] > place:
            assert piecewise(place, points=points) == RoleWeights(user, assistant)
    found = piecewise(progress, points=points)
    left = [point for point in points if point[0] <= progress][-1:] or points[:1]
    right = [point for point in points if point[0] > progress][:1] or points[-1:]
    for weight, before, after in ((found.user, left[0][1], right[0][1]), (found.assistant, left[0][2], right[0][2])):
        assert min(before, after) <= weight <= max(before, after)
    (start, *first), (end, *last) = left[0], right[0]
    assume(start + 1e-6 < progress < end)
    slopes = [(b - a) / (end - start) for a, b in zip(first, last, strict=True)]
    expected = [a + slope * (progress - start) for a, slope in zip(first, slopes, strict=True)]
    assert [found.user, found.assistant] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("number", "schedule_steps", "progress"), [(0, 1, 0.0), (1, 1, 1.0), (3, 4, 0.75), (4, 4, 1.0), (99, 4, 1.0)]
)
def test_progress_stays_at_1_after_the_schedule(number, schedule_steps, progress):
    assert compute_progress(number, schedule_steps) == progress


@pytest.mark.parametrize(
    ("schedule", "users"),
    [
        (partial(step, train_user_turn_mask_step=0.5), [1, 0, 0]),
        (partial(step, train_user_turn_mask_step=0), [0, 0, 0]),
        (partial(step, train_user_turn_mask_step=1), [1, 1, 1]),
        (partial(reverse_step, train_user_turn_mask_step=0.5), [0, 1, 1]),
        (partial(linear, start=0.25, end=0.75, start_weight=1.0, end_weight=0.25), [1, 0.25, 0.25]),
        (partial(cosine, start=0.0, end=1.0, start_weight=1.0, end_weight=0.25), [1, 0.25, 0.25]),
        (partial(piecewise, points=[[0, 1], [0.5, 0.5], [1, 0.25]]), [1, 0.25, 0.25]),
        (partial(constant, end_weight=0.1), [0.1, 0.1, 0.1]),
    ],
)
def test_schedules_over_a_single_step(schedule, users):
    assert [schedule(compute_progress(number, 1)).user for number in (0, 1, 2)] == users


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 1_000_000), st.data())
def test_switch_is_at_exactly_the_given_step(schedule_steps, data):
    switch = data.draw(st.integers(1, schedule_steps - 1))
    users = [
        step(compute_progress(number, schedule_steps), train_user_turn_mask_step=switch / schedule_steps).user
        for number in (switch - 1, switch)
    ]
    assert users == [1, 0]
