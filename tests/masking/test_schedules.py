import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.masking.schedules import final_from_step, progress_of, step
from dialog_trainer.records import Role


@pytest.mark.parametrize(
    ("switch", "progress", "user_weight"),
    [
        (0, 0.0, 0), (0, 1.0, 0),
        (0.5, 0.0, 1), (0.5, 0.4999, 1), (0.5, 0.5, 0), (0.5, 1.0, 0),
        (1, 0.0, 1), (1, 0.9999, 1), (1, 1.0, 1),
    ],
)  # fmt: skip
def test_step_at_its_borders(switch, progress, user_weight):
    weights = step(progress, train_user_turn_mask_step=switch)
    assert weights == {Role.USER: user_weight, Role.ASSISTANT: 1, Role.END: 1}


@pytest.mark.parametrize(
    ("number", "schedule_steps", "progress"), [(0, 1, 0.0), (1, 1, 1.0), (3, 4, 0.75), (4, 4, 1.0), (99, 4, 1.0)]
)
def test_progress_stays_at_1_after_the_schedule(number, schedule_steps, progress):
    assert progress_of(number, schedule_steps) == progress


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 1000), st.data())
def test_the_switch_is_the_very_step_that_was_asked_for(schedule_steps, data):
    switch = data.draw(st.integers(1, schedule_steps - 1))
    users = [
        step(progress_of(number, schedule_steps), train_user_turn_mask_step=switch / schedule_steps)[Role.USER]
        for number in (switch - 1, switch)
    ]
    assert users == [1, 0]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.one_of(st.sampled_from([0, 0.5, 1]), st.floats(0, 1)))
def test_final_from_step_is_the_first_step_after_the_last_change(schedule_steps, switch):
    def mask(progress):
        return step(progress, train_user_turn_mask_step=switch)

    weights = [mask(progress_of(number, schedule_steps)) for number in range(schedule_steps + 5)]
    changes = [number for number in range(1, len(weights)) if weights[number] != weights[number - 1]]
    assert final_from_step(mask, schedule_steps) == max(changes, default=0)
