"""Which jobs share updates: a pure function of their timelines."""

import pytest

from dialog_trainer.build.mask import build_mask
from dialog_trainer.config.schema import Config
from dialog_trainer.masking.timeline import build_timeline, weigh_roles_at_step
from dialog_trainer.sweeps.forks import MIN_SHARED, Forkable, find_forks
from tests.helpers.configs import compose_config

STEPS = 1000


def forkable(index: int, config: Config, family: str = "a", steps: int = STEPS) -> Forkable:
    return Forkable(index, family, build_timeline(build_mask(config), steps), steps)


def composed(*overrides: str) -> Config:
    return compose_config("model=gpt2_tiny", "data=chitchat", *overrides)


def switch(value: float) -> Config:
    return composed().replace({"train_user_turn_mask_step": value})


def switches(*values: float) -> list[Forkable]:
    return [forkable(index, switch(value)) for index, value in enumerate(values)]


def cost(jobs: list[Forkable], forks: dict[int, tuple[int, int]]) -> float:
    """In complete runs."""
    return sum(1 - forks.get(job.index, (0, 0))[1] / job.steps for job in jobs)


@pytest.mark.parametrize(
    ("values", "runs"),
    [((0, 0.25, 0.5, 0.75, 1), 3.5), ([tenth / 10 for tenth in range(11)], 6.5), ((0, 1), 2), ((0.5, 0.6), 1.5), ((1,), 1)],
)  # fmt: skip
def test_cost_of_switches(values, runs):
    jobs = switches(*values)
    assert cost(jobs, find_forks(jobs, MIN_SHARED)) == pytest.approx(runs)


def test_only_what_is_worth_it():
    jobs = switches(0.05, 1)
    assert find_forks(jobs, MIN_SHARED) == {}
    assert find_forks(jobs, 0.0) == {0: (1, 50)}


def test_equal_runs_share_all_but_the_last_update():
    jobs = [
        forkable(0, switch(1)),
        forkable(1, composed("mask_schedule=constant", "mask_schedule.end_weight=1")),
    ]
    assert find_forks(jobs, MIN_SHARED) == {1: (0, STEPS - 1)}


@pytest.mark.parametrize("other", [{"family": "b"}, {"steps": 2 * STEPS}])
def test_other_settings_share_nothing(other):
    jobs = [forkable(0, switch(1)), forkable(1, switch(0.5), **other)]
    assert find_forks(jobs, MIN_SHARED) == {}


SCHEDULES = [
    ("train_user_turn_mask_step=0.3",), ("train_user_turn_mask_step=1",), ("mask_schedule=linear",), ("mask_schedule=cosine",),
    ("mask_schedule=piecewise",), ("mask_schedule=random_turns",), ("mask_schedule=constant", "mask_schedule.end_weight=1"),
    ("mask_schedule=reverse_step",), ("mask_schedule=constant",), ("train_user_turn_mask_step=0",),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("role", ["assistant", "user"])
def test_weights_are_equal_before_a_fork_and_differ_at_it(role):
    configs = [composed(*schedule).replace({"mask_schedule.trained_role": role}) for schedule in SCHEDULES]
    jobs = [forkable(index, config, steps=100) for index, config in enumerate(configs)]
    masks = [build_mask(config) for config in configs]
    forks = find_forks(jobs, 0.0)
    assert len(forks) >= 6

    def weights(index: int, step: int) -> tuple[float, float, bool]:
        found = weigh_roles_at_step(masks[index], step, 100)
        return found.user, found.assistant, found.random_roles and found.user != found.assistant

    for index, (root, shared) in forks.items():
        assert all(weights(index, step) == weights(root, step) for step in range(shared))
        assert shared == 99 or weights(index, shared) != weights(root, shared)
