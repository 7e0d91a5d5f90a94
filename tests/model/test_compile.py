"""Compiled blocks against eager ones."""

import warnings
from functools import partialmethod

import pytest
import torch
from helpers.batches import join_batches, random_batches
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from dialog_trainer.model import compile
from dialog_trainer.model.compile import can_compile, compile_blocks, compile_is_faster, run_eagerly, uncompile_blocks
from dialog_trainer.model.kernels.activations import fuse_activations
from dialog_trainer.model.last_block import find_blocks, restore_last_block
from dialog_trainer.model.loss import compute_loss
from dialog_trainer.model.packed_forward import use_packed_attention

WIDTH = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES = {"vocab_size": 303, "max_position_embeddings": 64}
CONFIGS = {
    "gpt2": lambda p: GPT2Config(
        vocab_size=303, n_positions=64, n_embd=32, n_layer=3, n_head=4, resid_pdrop=p, embd_pdrop=p, attn_pdrop=p
    ),
    "llama": lambda p: LlamaConfig(**SIZES, **WIDTH, num_key_value_heads=2, attention_dropout=p),
    "neox": lambda p: GPTNeoXConfig(**SIZES, **WIDTH, attention_dropout=p, hidden_dropout=p),
}
# torch warns when it compiles, and stops half-way where warnings are errors.
pytestmark = pytest.mark.filterwarnings("default")
# Several sequences, of as many tokens as the model is wide; one, many, and one token.
BATCHES = ([9, 14, 9], [12], [3] * 11, [7, 8], [1])


@pytest.fixture(scope="module", autouse=True)
def _reset_afterwards():
    yield
    torch._dynamo.reset()


def made(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    fuse_activations(model)
    assert use_packed_attention(model, 64)
    return model.train()


def step(model, lengths: list[int]) -> tuple[float, torch.Tensor]:
    """Loss and gradient of a batch; its noise is the same each time."""
    model.zero_grad()
    torch.manual_seed(7)
    found = compute_loss(model, join_batches(random_batches(lengths, seed=1)))
    found.nats.backward()
    return found.nats.item(), torch.cat([one.grad.flatten() for one in model.parameters()])


def test_compiled_blocks_are_whole_and_uncompiled_ones_trimmed_again():
    model = made(CONFIGS["gpt2"](0.0))
    assert model.last_block is not None
    with warnings.catch_warnings(action="ignore"):  # of torch's own imports
        compile_blocks(model)
    assert model.last_block is None
    assert not any(block._forward_pre_hooks or block.mlp._forward_pre_hooks for block in find_blocks(model))
    uncompile_blocks(model)
    assert model.last_block is not None
    assert model.training


# The graphs alone, those of the backward pass once: machine code takes a minute (tests/distributed/test_compiled_runs.py).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dropout", "backend"), [("gpt2", 0.3, "aot_eager"), ("llama", 0.0, "eager"), ("neox", 0.3, "eager")]
)
def test_compiled_loss_and_gradient_equal_eager(name, dropout, backend, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    plain, fast = made(CONFIGS[name](dropout)), made(CONFIGS[name](dropout))
    restore_last_block(plain)  # compiled blocks are whole, which changes the last bits
    assert can_compile(fast)
    compile_blocks(fast)
    counters.clear()
    graphs = []
    for lengths in BATCHES:
        (loss, gradient), (expected, slow) = step(fast, lengths), step(plain, lengths)
        graphs.append(counters["stats"]["unique_graphs"])
        assert loss == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(gradient, slow, rtol=1e-5, atol=1e-5 * float(slow.abs().max()))
    assert graphs[0] > 0
    # Three blocks and any number of tokens share their code; one token alone has its own.
    assert graphs[0] <= 6
    assert graphs[:4] == graphs[:1] * 4
    with run_eagerly():
        loss, gradient = step(fast, [5, 6])
    expected, slow = step(plain, [5, 6])
    assert loss == expected
    assert torch.equal(gradient, slow)
    assert counters["stats"]["unique_graphs"] == graphs[-1]


def test_only_packed_attention_is_compiled():
    model = made(CONFIGS["gpt2"](0.0))
    model.set_attn_implementation("sdpa")
    assert not can_compile(model)


@pytest.mark.parametrize(
    ("device", "capability", "triton", "expected"),
    [
        ("cuda", (7, 0), True, True),
        ("cuda", (6, 1), True, False),
        ("cuda", (9, 0), False, False),
        ("cpu", None, True, False),
        ("mps", None, True, False),
    ],
)
def test_compile_is_faster_by_device(monkeypatch, device, capability, triton, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(compile, "has_triton", lambda: triton)
    assert compile_is_faster(torch.device(device)) is expected
