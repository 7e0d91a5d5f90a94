"""Fused activation and dropout, and attention with dropout, against plain implementations."""

from itertools import pairwise

import pytest
import torch
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import NewGELUActivation

from dialog_trainer.model.kernels import attention
from dialog_trainer.model.kernels.activations import BitDropout, TanhGelu, draw_keep_mask, fuse_activations, keep_scale
from dialog_trainer.model.kernels.attention import Packing, packed_attention
from dialog_trainer.model.packed_forward import padded_attention


def test_tanh_gelu_equals_gelu_new():
    values = torch.linspace(-12, 12, 1001, requires_grad=True)
    found, expected = TanhGelu()(values), NewGELUActivation()(values)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(one.sum(), values)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_fused_model_has_equal_logits(tiny_model):
    ids = torch.arange(9)[None]
    with torch.no_grad(), padded_attention(tiny_model):
        expected = tiny_model.eval()(input_ids=ids).logits
        names = list(tiny_model.state_dict())
        fuse_activations(tiny_model)
        found = tiny_model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    kinds = {type(module) for module in tiny_model.modules()}
    assert {TanhGelu, BitDropout} <= kinds
    assert not {NewGELUActivation, torch.nn.Dropout} & kinds
    assert list(tiny_model.state_dict()) == names


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_rate_scale_and_independence(p):
    torch.manual_seed(0)
    count = 400_000
    found = BitDropout(p)(torch.ones(4, count // 4))
    kept = found[found > 0]
    assert abs(len(kept) / count - (1 - p)) < 5 * (p * (1 - p) / count) ** 0.5
    assert kept.unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    # Neighbours, and the four values of one 64-bit draw, are independent.
    noise = (found.flatten() > 0).double() - (1 - p)
    for apart in (1, 2, 3, 4, 8):
        together = float((noise[apart:] * noise[:-apart]).mean() / (p * (1 - p)))
        assert abs(together) < 5 / count**0.5


def test_noise_follows_seed_and_gradient_follows_noise():
    values = torch.randn(7, 33, requires_grad=True)
    module = BitDropout(0.3)
    torch.manual_seed(3)
    one = module(values)
    torch.manual_seed(3)
    again, another = module(values), module(values)
    assert torch.equal(one, again)
    assert not torch.equal(again, another)
    (gradient,) = torch.autograd.grad(again.sum(), values)
    assert torch.equal(gradient > 0, again != 0)
    assert gradient[gradient > 0].unique().tolist() == pytest.approx([1 / 0.7], rel=1e-4)


@pytest.mark.parametrize("module", [BitDropout(0.0), BitDropout(0.5).eval()])
def test_no_noise_without_dropout_or_training(module):
    values = torch.randn(5)
    assert torch.equal(module(values), values)


# The queries of each block, in the sequences below.
BLOCKS = {128: [[(0, 5)], [(0, 1)], [(0, 8)]], 3: [[(0, 3), (3, 5)], [(0, 1)], [(0, 3), (3, 6), (6, 8)]]}


@pytest.mark.parametrize("block_rows", BLOCKS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_dropout_attention_equals_masked_softmax(heads, kv_heads, scaling, block_rows, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_ROWS", block_rows)
    lengths, width, p = (5, 1, 8), 6, 0.25
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, sum(lengths), count, width, generator=draw).transpose(1, 2).requires_grad_()
        for count in (heads, kv_heads, kv_heads)
    )
    torch.manual_seed(5)
    found, _ = packed_attention(None, query, key, value, None, p, scaling, packing=Packing(lengths))
    torch.manual_seed(5)
    blocks = BLOCKS[block_rows]
    sizes = [heads * (stop - start) * stop for own in blocks for start, stop in own]
    noise = iter(draw_keep_mask((sum(sizes),), p).split(sizes))
    masks, scale = [], keep_scale(p)
    for length, own in zip(lengths, blocks, strict=True):
        masks.append(torch.ones(heads, length, length, dtype=torch.bool))
        for start, stop in own:
            masks[-1][:, start:stop, :stop] = next(noise).view(heads, stop - start, stop)
    outputs = []
    for q, k, v, stays in zip(*(t.split(lengths, dim=2) for t in (query, key, value)), masks, strict=True):
        k, v = (tensor.repeat_interleave(heads // kv_heads, dim=1) for tensor in (k, v))
        scores = q @ k.transpose(2, 3) * (width**-0.5 if scaling is None else scaling)
        scores = scores.masked_fill(torch.ones(q.shape[2], q.shape[2]).triu(1).bool(), -torch.inf)
        shares = scores.softmax(-1) * stays.view(scores.shape) * scale
        outputs.append((shares @ v).transpose(1, 2))
    expected = torch.cat(outputs, dim=1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=draw)
    gradients = [torch.autograd.grad((one * weights).sum(), (query, key, value)) for one in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_autocast_may_mix_dtypes(dropout):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 14, 4, 6, generator=draw).transpose(1, 2).to(dtype).requires_grad_()
        for dtype in (torch.float32, torch.float32, torch.bfloat16)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = packed_attention(None, query, key, value, None, dropout, packing=Packing((5, 1, 8)))
    found.float().sum().backward()
    assert all(one.grad.isfinite().all() for one in (query, key, value))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_gpu_attention_is_one_call(monkeypatch, kv_heads):
    """A slow function replaces `varlen_attn`, which needs a GPU."""

    def slow(query, key, value, from_q, from_k, longest_q, longest_k, *, scale, window_size):
        assert (from_q.dtype, longest_q, longest_k, window_size) == (torch.int32, 8, 8, (-1, 0))
        assert from_q is from_k
        parts = []
        for first, end in pairwise(from_q.tolist()):
            q, k, v = (tensor[first:end].transpose(0, 1) for tensor in (query, key, value))
            parts.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr(varlen, "varlen_attn", slow)
    lengths = (5, 1, 8)
    draw = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(1, sum(lengths), count, 6, generator=draw).transpose(1, 2).bfloat16()
        for count in (4, kv_heads, kv_heads)
    ]
    on_gpu = Packing(lengths, torch.tensor([0, 5, 6, 14], dtype=torch.int32))
    found, _ = packed_attention(None, *tensors, None, scaling=0.3, packing=on_gpu)
    expected, _ = packed_attention(None, *tensors, None, scaling=0.3, packing=Packing(lengths))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=5e-3)
    single = [tensor.float() for tensor in tensors]  # in fp32 it cannot be had
    monkeypatch.setattr(varlen, "varlen_attn", None)
    assert packed_attention(None, *single, None, packing=on_gpu)[0].shape == (1, 14, 4, 6)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for device in ("cpu", "cuda"):
        assert Packing.on(torch.device(device), lengths) == Packing(lengths)
