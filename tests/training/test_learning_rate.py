"""The golden values are those that the original program applies (ljm565/multi-turn-chatbot-GPT2 @1c35475)."""

import math

import pytest

from dialog_trainer.training import learning_rate
from dialog_trainer.training.learning_rate import constant

# scheduler, schedule_steps, warmup_steps, lr0, lrf, {step: learning rate}
GOLDEN = [
    ("cosine", 30000, 200, 1e-4, 0.1, {0: 0.0, 1: 4.999999987662996e-07, 100: 4.999876631072403e-05, 200: 9.999013075636805e-05, 7500: 8.681980515339465e-05, 15000: 5.500000000000001e-05, 29999: 1.0000000246740104e-05}),
    ("cosine", 300, 20, 5e-4, 0.01, {0: 0.0, 10: 0.00024932208455182383, 20: 0.0004945915311816169, 150: 0.00025250000000000007, 299: 5.013570582035776e-06}),
    ("cosine", 100, 1, 1e-3, 1.0, {0: 0.0, 1: 1e-3, 99: 1e-3}),
    ("linear", 30000, 200, 1e-4, 0.1, {0: 0.0, 1: 5.030050335570469e-07, 100: 5.015100671140939e-05, 200: 0.0001, 7500: 7.795302013422818e-05, 29999: 1.0003020134228187e-05}),
    ("linear", 300, 20, 5e-4, 0.01, {1: 2.6679464285714285e-05, 10: 0.00025883928571428575, 20: 0.0005, 225: 0.00013758928571428575, 299: 6.767857142857136e-06}),
    ("linear", 100, 1, 1e-3, 1.0, {0: 0.0, 1: 1e-3, 99: 1e-3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "schedule_steps", "warmup_steps", "lr0", "lrf", "expected"), GOLDEN)
def test_golden(name, schedule_steps, warmup_steps, lr0, lrf, expected):
    factor = getattr(learning_rate, name)
    for step, lr in expected.items():
        found = lr0 * factor(step, schedule_steps=schedule_steps, warmup_steps=warmup_steps, lrf=lrf)
        assert found == pytest.approx(lr, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_end_value_holds_past_the_schedule(name):
    factor = getattr(learning_rate, name)
    for step in (100, 101, 5000):
        assert factor(step, schedule_steps=100, warmup_steps=10, lrf=0.25) == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "schedule_steps", "warmup_steps", "step", "expected"),
    [
        ("cosine", 30000, 200, 30131, 1.0004234240623578e-05),
        ("linear", 10, 2, 13, -0.2375e-4),
        ("linear", 30000, 200, 30131, 9.604362416107388e-06),
    ],
)
def test_the_original_follows_its_schedules_past_their_end(name, schedule_steps, warmup_steps, step, expected):
    options = {"schedule_steps": schedule_steps, "warmup_steps": warmup_steps, "lrf": 0.1}
    assert 1e-4 * getattr(learning_rate, name)(step, **options, past_end=True) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_no_warmup_starts_at_one(name):
    assert getattr(learning_rate, name)(0, schedule_steps=100, warmup_steps=0, lrf=0.1) == 1.0


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("warmup_steps", [100, 101, 400])
def test_warmup_longer_than_the_run_stays_between_0_and_1(name, warmup_steps):
    factors = [
        getattr(learning_rate, name)(step, schedule_steps=100, warmup_steps=warmup_steps, lrf=0.1)
        for step in range(101)
    ]
    assert all(0 <= factor <= 1 and math.isfinite(factor) for factor in factors)
    assert factors[0] == 0 < factors[1]


def test_constant():
    found = [constant(step, schedule_steps=10, warmup_steps=4) for step in (0, 1, 4, 9, 50)]
    assert found == [0.0, 0.25, 1.0, 1.0, 1.0]
