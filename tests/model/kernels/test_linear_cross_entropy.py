"""Chunked linear + cross-entropy against cross-entropy over all logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from dialog_trainer.model.kernels.linear_cross_entropy import CHUNK_LOGITS, linear_cross_entropy, linear_token_nll


def made(targets, bias, dtype=torch.float32, words=37, width=8):
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, width, generator=draw, dtype=dtype) for size in (targets, words))
    return (
        hidden.requires_grad_(),
        (weight * 3).requires_grad_(),
        torch.randn(words, generator=draw, dtype=dtype).requires_grad_() if bias else None,
        torch.randint(0, words, (targets,), generator=draw),
        torch.rand(targets, generator=draw, dtype=dtype),
    )


def reference(hidden, weight, bias, targets, weights):
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    nll = cross_entropy(logits, targets, reduction="none")
    return (nll * weights).sum(), nll


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 5, 11, 1000])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_loss_and_gradients_equal_cross_entropy(monkeypatch, rows, bias, factor):
    """`rows` targets at a time, of 11."""
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", rows * 37)
    gradients = []
    for function in (reference, linear_cross_entropy):
        inputs = made(11, bias)
        total, nll = function(*inputs)
        (total * factor).backward()
        gradients.append((total, nll.detach(), *(one.grad for one in inputs[:3] if one is not None)))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max()))
    assert torch.equal(linear_token_nll(*made(11, bias)[:4]), gradients[1][1])


def test_improbable_target_has_finite_loss():
    hidden = torch.tensor([[1.0], [1.0], [-1.0]])
    weight = torch.tensor([[200.0], [0.0]])
    found = linear_token_nll(hidden, weight, None, torch.tensor([1, 0, 0]))
    assert found.tolist() == [200.0, 0.0, 200.0]


def test_no_targets_give_zero_gradients():
    inputs = made(0, True)
    total, nll = linear_cross_entropy(*inputs)
    total.backward()
    assert (total.item(), nll.shape) == (0.0, (0,))
    for one in inputs[1:3]:
        assert torch.equal(one.grad, torch.zeros_like(one))


def test_frozen_weight_has_no_gradient():
    hidden, weight, _, targets, weights = made(11, False)
    total, _ = linear_cross_entropy(hidden, weight.detach(), None, targets, weights)
    total.backward()
    expected, _ = reference(hidden.detach().requires_grad_(), weight.detach(), None, targets, weights)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert hidden.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_sets_the_product_dtype(dtype):
    gradients = []
    for cast in (False, True):
        inputs = made(11, False)
        with torch.autocast("cpu", dtype=dtype, enabled=cast):
            total, nll = linear_cross_entropy(*inputs)
            assert torch.equal(linear_token_nll(*inputs[:4]), nll)
        total.backward()
        assert (nll.dtype, inputs[0].grad.dtype, inputs[1].grad.dtype) == (torch.float32,) * 3
        gradients.append((total.detach(), inputs[0].grad, inputs[1].grad))
    for expected, found in zip(*gradients, strict=True):
        apart = float((found - expected).abs().max() / expected.abs().max())
        assert 0 < apart < 0.03
