"""Packed forward passes against the plain, padded model."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dialog_trainer.errors import ModelError
from dialog_trainer.model.kernels.attention import Packing, packed_attention
from dialog_trainer.model.loss import compute_loss
from dialog_trainer.model.packed_forward import ATTENTION, packed_logits, padded_attention, use_packed_attention
from dialog_trainer.types import Batch

LENGTHS = (3, 17, 1, 12, 8)
SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PACKED = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": {"num_key_value_heads": 2},
    "gpt_neox": {},
}
# An attention of their own (bloom, gpt_neo), a recurrent state (mamba; jamba, where narrow weights let little of it
# through), a soft cap (gemma2).
PADDED = {
    "bloom": {},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "mamba": {},
    "jamba": {"initializer_range": 0.02, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
              "use_mamba_kernels": False},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8},
}  # fmt: skip


def built(kind: str, **sizes):
    """A small random model of `kind`; its weights are wide enough for logits that differ between tokens."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SHAPE | {"initializer_range": 0.1} | sizes)))


def batch_of(lengths: tuple[int, ...], seed: int = 1) -> Batch:
    """Random ids; every token but the first of a sequence weighs between 0 and 1, a third of them 0."""
    draw = torch.Generator().manual_seed(seed)
    positions = torch.cat([torch.arange(length) for length in lengths])
    ids = torch.randint(3, 64, (sum(lengths),), generator=draw)
    weights = torch.rand(len(ids), generator=draw) * (torch.rand(len(ids), generator=draw) > 1 / 3) * (positions > 0)
    roles = turns = torch.zeros_like(ids)
    return Batch(ids, roles, turns, positions, weights, lengths, divisor=float(weights.sum()))


def all_logits(model, batch: Batch) -> torch.Tensor:
    return packed_logits(model, batch.ids, batch.positions, batch.lengths, torch.arange(len(batch.ids)))


@pytest.mark.parametrize("kind", PACKED)
def test_packed_logits_equal_padded_and_single(kind):
    plain = built(kind, **PACKED[kind]).eval()
    packed = copy.deepcopy(plain)
    assert use_packed_attention(packed, longest=20)
    assert packed.config._attn_implementation == ATTENTION
    batch = batch_of(LENGTHS)
    with torch.no_grad():
        found = all_logits(packed, batch)
        alone = torch.cat([plain(input_ids=ids.unsqueeze(0)).logits[0] for ids in batch.ids.split(LENGTHS)])
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(found, all_logits(plain, batch), rtol=0, atol=1e-5)
    assert alone.std() > 0.1


@pytest.mark.parametrize("kind", PACKED)
def test_packed_gradients_equal_padded(kind):
    plain = built(kind, **PACKED[kind]).train()
    packed = copy.deepcopy(plain)
    assert use_packed_attention(packed)
    batch = batch_of(LENGTHS)
    for model in (plain, packed):
        part = compute_loss(model, batch)
        (part.nats / batch.divisor).backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0.01
    for name, parameter in packed.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[name], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_sequences_are_independent_bit_for_bit(kind, changed):
    model = built(kind, **PACKED[kind]).eval()
    assert use_packed_attention(model)
    batch, other = batch_of(LENGTHS), batch_of(LENGTHS, seed=2)
    ids = list(batch.ids.split(LENGTHS))
    ids[changed] = other.ids.split(LENGTHS)[changed]
    with torch.no_grad():
        before = all_logits(model, batch).split(LENGTHS)
        after = packed_logits(model, torch.cat(ids), batch.positions, LENGTHS, torch.arange(sum(LENGTHS))).split(
            LENGTHS
        )
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [index != changed for index in range(len(LENGTHS))]


@pytest.mark.parametrize("kind", [*PACKED, "bloom"])
def test_logits_follow_the_indices(kind):
    model = built(kind, **(PACKED | PADDED)[kind]).eval()
    use_packed_attention(model)
    batch, at = batch_of(LENGTHS), torch.tensor([0, 3, 40, 20, 19, 3])
    with torch.no_grad():
        some = packed_logits(model, batch.ids, batch.positions, LENGTHS, at)
        torch.testing.assert_close(some, all_logits(model, batch)[at], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", PADDED)
def test_unsupported_model_is_padded_with_equal_loss(kind):
    model = built(kind, **PADDED[kind])
    plain = model.config._attn_implementation
    assert not use_packed_attention(model)
    assert model.config._attn_implementation == plain
    model.eval()
    batch = batch_of(LENGTHS)
    expected = 0.0
    with torch.no_grad():
        for ids, weights in zip(batch.ids.split(LENGTHS), batch.weights.split(LENGTHS), strict=True):
            nats = -model(input_ids=ids.unsqueeze(0)).logits[0].log_softmax(-1)
            expected += sum(float(weights[t] * nats[t - 1, ids[t]]) for t in range(1, len(ids)))
        assert float(compute_loss(model, batch).nats) == pytest.approx(expected, rel=1e-5)


# BERT and its kin as `AutoModelForCausalLM` loads them; with `is_decoder` they are causal.
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_a_model_that_sees_the_future_is_refused(kind):
    model = built(kind, initializer_range=0.02)
    with pytest.raises(ModelError, match=rf"{type(model).__name__} is not causal: a later token changes"):
        use_packed_attention(model, longest=20)
    use_packed_attention(built(kind, is_decoder=True), longest=20)


def test_too_few_positions_are_told():
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel fails on a sequence of 65 tokens"):
        use_packed_attention(built("gpt2"), longest=65)


@pytest.mark.parametrize(("longest", "fits"), [(4, True), (6, False)])
def test_window_matters_only_to_longer_sequences(longest, fits):
    model = built("mistral", sliding_window=4)
    assert use_packed_attention(model, longest=longest) is fits


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
def test_probe_keeps_the_mode(kind, training):
    model = built(kind, **(PACKED | PADDED)[kind]).train(training)
    use_packed_attention(model)
    assert model.training is training


@pytest.mark.parametrize("kind", PACKED)
def test_padded_attention_restores_the_plain_model(kind):
    plain = built(kind, **PACKED[kind]).eval()
    packed = copy.deepcopy(plain)
    assert use_packed_attention(packed)
    ids = batch_of((12,)).ids.unsqueeze(0)
    with torch.no_grad(), padded_attention(packed):
        assert packed.config._attn_implementation == plain.config._attn_implementation
        assert torch.equal(packed(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert packed.config._attn_implementation == ATTENTION
    with pytest.raises(KeyError), padded_attention(packed):
        raise KeyError
    assert packed.config._attn_implementation == ATTENTION


@pytest.mark.parametrize("key_heads", [1, 2])
def test_attention_with_dropout_is_that_of_fp32_under_autocast(key_heads):
    lengths, generator = (200, 3, 90), torch.Generator().manual_seed(0)
    shapes = ((1, 2, sum(lengths), 8), (1, key_heads, sum(lengths), 8), (1, key_heads, sum(lengths), 8))
    values = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]
    found = []
    for dtype, autocast in ((torch.float32, False), (torch.bfloat16, True), (torch.bfloat16, False)):
        inputs = [value.detach().to(dtype).requires_grad_() for value in values]
        torch.manual_seed(1)
        with torch.autocast("cpu", enabled=autocast):
            output, _ = packed_attention(None, *inputs, None, dropout=0.2, packing=Packing(lengths))
            output.square().sum().backward()  # as the probe of gradient alignment: within autocast
        assert output.dtype == dtype
        found.append([output.detach().float(), *(value.grad.float() for value in inputs)])
    for expected, *short in zip(*found, strict=True):
        for one in short:
            torch.testing.assert_close(one, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_dropout_applies_to_probabilities():
    ones = torch.ones(1, 1, 400, 1)
    torch.manual_seed(0)
    output, weights = packed_attention(None, ones, ones, ones, None, dropout=0.5, packing=Packing((200, 200)))
    assert weights is None
    assert output.shape == (1, 400, 1, 1)
    assert output.std() > 0.05  # without dropout every output is exactly 1
    assert output.mean() == pytest.approx(1.0, abs=0.1)
