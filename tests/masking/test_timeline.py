import math
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.errors import ConfigError
from dialog_trainer.masking import schedules
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights, cosine, linear, progress_of, reverse_step, step
from dialog_trainer.masking.timeline import build_timeline, describe_timeline
from dialog_trainer.types import Role

NAN, INF = math.nan, math.inf


def stepwise(weights, **options):
    """A mask with a list of weights, one for each step."""
    return Mask(lambda progress: weights[round(progress * (len(weights) - 1))], **options)


ROLE_WEIGHTS = st.builds(RoleWeights, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.25, 1.0]), st.booleans())


@settings(deadline=None, max_examples=200)
@given(st.lists(ROLE_WEIGHTS, min_size=2, max_size=12), st.sampled_from([Role.USER, Role.ASSISTANT]), st.booleans())
def test_an_outline_against_looking_at_every_step(weights, role, last_turn_only):
    mask = stepwise(weights, trained_role=role, last_turn_only=last_turn_only)
    steps = len(weights) - 1
    at = [mask.at(step / steps) for step in range(steps + 1)]
    changes = [step for step in range(1, steps + 1) if at[step] != at[step - 1]]
    kinds = [(w.user > 0, w.assistant > 0, w.by_lot) for w in at]
    whole = build_timeline(mask, steps)
    assert (whole.schedule_steps, whole.first, whole.final) == (steps, at[0], at[-1])
    assert whole.changes == len(changes)
    assert whole.first_change == min(changes, default=0)
    assert whole.final_from_step == max(changes, default=0)
    assert whole.kinds == tuple((step, at[step]) for step in range(steps + 1) if kinds[step] not in kinds[:step])
    assert [whole.progress(step) for step in (0, 1, steps, 2 * steps)] == [0, 1 / steps, 1, 1]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.one_of(st.sampled_from([0, 0.5, 1]), st.floats(0, 1)), st.data())
def test_final_from_step_is_the_first_step_after_the_last_change(schedule_steps, switch, data):
    schedule = data.draw(
        st.sampled_from(
            [
                partial(step, train_user_turn_mask_step=switch),
                partial(reverse_step, train_user_turn_mask_step=switch),
                partial(linear, start=switch / 2, end=switch, start_weight=1.0, end_weight=0.0),
                partial(cosine, start=switch / 2, end=switch, start_weight=0.3, end_weight=0.7),
            ]
        )
    )
    weights = [schedule(progress_of(number, schedule_steps)) for number in range(schedule_steps + 5)]
    changes = [number for number in range(1, len(weights)) if weights[number] != weights[number - 1]]
    whole = build_timeline(Mask(schedule), schedule_steps)
    assert whole.final_from_step == max(changes, default=0)
    assert whole.changes == len(changes)


FINE, IDLE = RoleWeights(1.0), RoleWeights(0.0, 0.0)
NOTHING = (
    "mask_schedule: no turn carries weight at {}; nothing would be trained but ends of dialogues: give one role weight"
)
BEYOND = "mask_schedule: a weight is not a number from 0 to 1 at {}; mend the schedule"


@pytest.mark.parametrize(
    ("weights", "faults"),
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
def test_steps_with_wrong_weights_or_none_are_named(weights, faults):
    with pytest.raises(ConfigError) as error:
        build_timeline(stepwise(weights), len(weights) - 1)
    assert error.value.errors == faults


def test_weights_at_both_limits_and_one_role_alone_are_no_fault():
    weights = [RoleWeights(0.0, 1.0), RoleWeights(1.0, 0.0), RoleWeights(1e-300, 0.0), RoleWeights(1.0, 1.0)]
    assert build_timeline(stepwise(weights), 3).changes == 3


def test_a_schedule_that_leaves_nothing_to_the_last_turn_is_refused():
    """What the others would have is not trained, so nothing is, where the trained role has no weight."""
    user_alone = [FINE, RoleWeights(1.0, 0.0), FINE]
    assert build_timeline(stepwise(user_alone), 2).changes == 2
    with pytest.raises(ConfigError, match="no turn carries weight at step 1 of 2"):
        build_timeline(stepwise(user_alone, last_turn_only=True), 2)


def build(name, **options):
    return partial(getattr(schedules, name), **options)


LINE = {"start": 0.25, "end": 0.75, "start_weight": 1.0, "end_weight": 0.0}
USER = {"trained_role": Role.USER}
LAST = {"last_turn_only": True}


@pytest.mark.parametrize(
    ("schedule", "options", "words"),
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
            "all turns, as many turns as the assistant has, drawn by lot, from step 15,000 (progress 0.50)",
        ),
        (
            build("random_turns", train_user_turn_mask_step=0.5),
            USER,
            "all turns, as many turns as the user has, drawn by lot, from step 15,000 (progress 0.50)",
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
            lambda progress: RoleWeights(0.25, 0.5, by_lot=True),
            {},
            "as many turns as the assistant has, drawn by lot, at weight 0.5 and the others at weight 0.25 throughout",
        ),
    ],
)  # fmt: skip
def test_masks_in_words(schedule, options, words):
    mask = Mask(schedule, **options)
    assert describe_timeline(mask, build_timeline(mask, 30_000)) == words


@pytest.mark.parametrize("fault", ["raises", "gives text", "gives None"])
def test_a_schedule_that_fails_is_named_with_its_step(fault):
    def own(progress):
        if progress < 0.5:
            return RoleWeights(1.0)
        if fault == "raises":
            raise ZeroDivisionError("by zero")
        return RoleWeights("1") if fault == "gives text" else None

    with pytest.raises(
        ConfigError, match=r"mask_schedule: the schedule fails at step 5 of 10 \(\w+Error: .*mend it: it gives"
    ):
        build_timeline(Mask(own), 10)
