"""The memory estimate of a step, and the micro-batch that is chosen or refused by it."""

import dataclasses

import pytest
import torch
from helpers.batches import batch_of

from dialog_trainer.errors import ConfigError
from dialog_trainer.model.loss import PackedLoss
from dialog_trainer.training import memory
from dialog_trainer.training.memory import MemoryEstimate, check_model_fits, fit_micro_batch_tokens, measure_memory


@pytest.mark.parametrize(
    ("requested", "free", "expected"),
    [
        (2048, 10**6, 2048),  # requested for: taken if it fits
        (2048, None, 2048),
        ("auto", None, 8192),
        ("auto", 10**9, 8192),
        ("auto", 1_000_000, 4864),  # (600,000 - 100,000) / 100 = 5,000
        ("auto", 300_000, 768),
        ("auto", 180_000, 128),  # less than max_len by 60 %, but max_len fits
    ],
)
def test_micro_batch_tokens_that_fit(requested, free, expected):
    assert fit_micro_batch_tokens(MemoryEstimate(100_000, 100.0, free), requested, 128, 10**6) == expected


@pytest.mark.parametrize(
    ("requested", "free", "batch_tokens", "remedy"),
    [
        (2048, 200_000, 10**6, "micro_batch_tokens=2048: a step would take about 1 MB, and 1 MB are free: use micro_batch_tokens=768,"),
        (2048, 110_000, 10**6, "use activation_checkpointing=true"),
        ("auto", 105_000, 10**6, "micro_batch_tokens=auto: a step would take"),
    ],
)  # fmt: skip
def test_step_that_does_not_fit_is_refused_with_a_remedy(requested, free, batch_tokens, remedy):
    with pytest.raises(ConfigError, match=remedy):
        fit_micro_batch_tokens(MemoryEstimate(100_000, 100.0, free), requested, 128, batch_tokens)


@pytest.mark.parametrize(
    ("weights", "processes", "message"),
    [
        (250, 1, None),
        (251, 1, "its 251 weights take 1 MB, training at least twice that, and 1 MB are free: use a smaller model"),
        (126, 2, "its 126 weights take 1 MB in each of 2 processes"),
    ],
)
def test_too_large_model_is_refused_before_it_is_built(monkeypatch, weights, processes, message):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    if message is None:
        check_model_fits(weights, torch.device("cpu"), processes)
    else:
        with pytest.raises(ConfigError, match=message):
            check_model_fits(weights, torch.device("cpu"), processes)
    check_model_fits(250, torch.device("cuda"), 8)  # each has a GPU of its own
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    check_model_fits(10**12, torch.device("mps"), processes)


def test_small_batch_needs_less_than_its_bound():
    assert fit_micro_batch_tokens(MemoryEstimate(100_000, 100.0, 200_000), 2048, 128, 500) == 2048


@pytest.mark.parametrize(
    ("kind", "settings", "numbers"),
    [(torch.optim.AdamW, {}, 3), (torch.optim.SGD, {"momentum": 0.9}, 2), (torch.optim.SGD, {}, 1)],
)
def test_gradients_and_optimizer_state_are_counted(tiny_model, monkeypatch, kind, settings, numbers):
    monkeypatch.setattr(memory, "_used_bytes", lambda device: 1_000)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 8_000)
    loss = PackedLoss(tiny_model)
    found = measure_memory(loss, kind(tiny_model.parameters(), lr=0.1, **settings), batch_of((9, 14)), 2)
    parameters = sum(parameter.numel() for parameter in tiny_model.parameters())
    largest = max(parameter.numel() for parameter in tiny_model.parameters())
    assert found.fixed_bytes == 1_000 + 4 * (parameters * numbers + largest)
    assert found.free_bytes == 5_000
    mixed = measure_memory(loss, kind(tiny_model.parameters(), lr=0.1, **settings), batch_of((9, 14)), 2, mixed=True)
    assert mixed.fixed_bytes == found.fixed_bytes + 2 * parameters
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_activations_grow_with_the_tokens(tiny_model):
    """One block of width 16 keeps at least its two norms, three products and the activation of each token."""
    loss = PackedLoss(tiny_model)
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    short, long = (
        measure_memory(loss, optimizer, batch_of(lengths), 1).token_bytes for lengths in ((9,), (9, 3, 14, 6))
    )
    assert 4 * 16 * 10 < long < 4 * 16 * 60
    assert long == pytest.approx(short, rel=0.4)


def test_line_is_in_gigabytes():
    line = MemoryEstimate(2 * 10**9, 10**6, 23 * 10**9).line(2048)
    assert line == (
        "memory: about 4.0 GB of 23.0 GB (2.0 GB with gradients and optimizer state, 2.0 GB for 2,048 tokens in a "
        "forward pass)"
    )
    assert " of " not in dataclasses.replace(MemoryEstimate(1, 1, None)).line(1).split("(")[0]
