"""Greedy and nucleus (top-p) sampling; the nucleus is that of transformers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from dialog_trainer.model.generation.sampling import GREEDY, Decoding, choose_next_tokens, draw_uniforms


def drawn(logits: torch.Tensor, temperature: float, top_p: float, uniform: list[float]) -> list[int]:
    """The tokens that one row of `logits` gives at each of `uniform`."""
    rows = logits.expand(len(uniform), -1)
    numbers = torch.tensor(uniform, dtype=torch.float64)
    return choose_next_tokens(rows, Decoding("sample", temperature, top_p), numbers).tolist()


@pytest.mark.parametrize(
    ("uniform", "top_p", "token"),
    [
        (0.0, 1.0, 0), (0.0999, 1.0, 0), (0.1001, 1.0, 1), (0.5999, 1.0, 1), (0.6001, 1.0, 3), (1 - 2**-53, 1.0, 3),
        # 0.5 alone is a mass of 0.5; then 0.4; then all
        (0.0, 0.49, 1), (1 - 2**-53, 0.49, 1),
        (0.0, 0.89, 1), (0.5554, 0.89, 1), (0.5557, 0.89, 3), (1 - 2**-53, 0.89, 3),
        (0.05, 0.91, 0), (0.0, 0.0, 1), (0.99, 0.0, 1),
    ],
)  # fmt: skip
def test_samples_by_hand(uniform, top_p, token):
    logits = torch.tensor([0.1, 0.5, 0.0, 0.4]).log()  # the third has probability 0
    assert drawn(logits, 1.0, top_p, [uniform]) == [token]


def test_nucleus_stops_at_exactly_top_p():
    assert drawn(torch.tensor([0.0, 0.0]), 1.0, 0.5, [0.0, 1 - 2**-53]) == [0, 0]


def test_temperature_divides_the_logits():
    logits = torch.tensor([1.0, 4.0]).log()  # at 1/2: 1 and 16; at 2: 1 and 2
    assert drawn(logits, 0.5, 1.0, [0.058, 0.060]) == [0, 1]
    assert drawn(logits, 2.0, 1.0, [0.332, 0.334]) == [0, 1]


def test_greedy_is_the_most_probable():
    assert choose_next_tokens(torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), GREEDY, None).tolist() == [1, 0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from([20, 3000]), st.floats(0.2, 3), st.floats(0.01, 0.999))
def test_sampling_equals_transformers_warpers(seed, size, temperature, top_p):
    logits = 3 * torch.randn(1, size, generator=torch.Generator().manual_seed(seed)).double()
    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
    sums = warped.softmax(-1)[0].cumsum(0).numpy()
    numbers = np.random.default_rng(seed).random(200)
    expected = np.searchsorted(sums / sums[-1], numbers, side="right")
    assert drawn(logits[0], temperature, top_p, numbers.tolist()) == expected.tolist()


def test_many_samples_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    numbers = draw_uniforms(range(20_000), 1)[:, 0]
    counts = torch.bincount(choose_next_tokens(logits.expand(20_000, -1), Decoding("sample"), numbers), minlength=4)
    torch.testing.assert_close(counts / 20_000, logits.softmax(0), rtol=0, atol=0.012)


def test_uniforms_of_a_row_depend_on_its_seed_alone():
    alone = [draw_uniforms([seed], 5)[0].tolist() for seed in (3, 0, 2**62)]
    assert draw_uniforms([3, 0, 2**62], 5).tolist() == alone
    assert draw_uniforms([3], 40)[0, :5].tolist() == alone[0]
    assert len({number for row in alone for number in row}) == 15
