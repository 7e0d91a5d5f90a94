"""The last block where only some positions are used: the same states and gradients, from fewer rows of its MLP."""

import copy

import pytest
import torch

from dialog_trainer.model.adapters import add_lora
from dialog_trainer.model.kernels.activations import fuse_activations
from dialog_trainer.model.last_block import find_blocks, restore_last_block, trim_last_block
from dialog_trainer.model.loss import compute_loss, token_losses
from dialog_trainer.model.packed_forward import packed_hidden_states, use_packed_attention
from tests.model.test_packed_forward import LENGTHS, PACKED, batch_of, built

TRIMMED = {**PACKED, "qwen2": {}, "gemma": {"head_dim": 8}}
EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}


def packed(kind: str, **sizes):
    model = built(kind, **sizes).train()
    assert use_packed_attention(model, longest=20)
    return model


def gradients_of(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    part = compute_loss(model, batch)
    (part.nats / batch.divisor).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def restored(model):
    other = copy.deepcopy(model)
    restore_last_block(other)
    return other


def rows_of_mlps(model, run) -> list[int]:
    """The positions that the first layer with weights of each block's MLP gets while `run()` runs."""
    rows = []
    layers = [next(layer for layer in block.mlp.modules() if hasattr(layer, "weight")) for block in find_blocks(model)]
    handles = [layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1])) for layer in layers]
    run()
    for handle in handles:
        handle.remove()
    return rows


@pytest.mark.parametrize("kind", TRIMMED)
def test_used_states_are_those_of_the_whole_block(kind):
    model = packed(kind, **TRIMMED[kind]).eval()
    batch = batch_of(LENGTHS)
    used = batch.targets - 1
    with torch.no_grad():
        whole = packed_hidden_states(model, batch.ids, batch.positions, LENGTHS)
        found = packed_hidden_states(model, batch.ids, batch.positions, LENGTHS, used)
    torch.testing.assert_close(found[used], whole[used], rtol=0, atol=1e-6)
    assert not torch.allclose(found, whole, atol=0.01)  # the others lack the MLP


@pytest.mark.parametrize("kind", TRIMMED)
def test_gradients_are_those_of_the_whole_block(kind):
    model, batch = packed(kind, **TRIMMED[kind]), batch_of(LENGTHS)
    found, expected = gradients_of(model, batch), gradients_of(restored(model), batch)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_last_mlp_computes_the_used_positions_alone():
    model, batch = packed("gpt2"), batch_of(LENGTHS)
    everything, used = len(batch.ids), len(batch.targets)
    assert 0 < used < everything
    assert rows_of_mlps(model, lambda: compute_loss(model, batch)) == [everything, used]
    assert rows_of_mlps(model, lambda: token_losses(model, batch)) == [everything, used]
    other = restored(model)
    assert rows_of_mlps(other, lambda: compute_loss(other, batch)) == [everything, everything]


def test_a_pass_that_names_no_positions_computes_all():
    model, batch = packed("gpt2").eval(), batch_of(LENGTHS)
    with torch.no_grad():
        expected = packed_hidden_states(model, batch.ids, batch.positions, LENGTHS)
        packed_hidden_states(model, batch.ids, batch.positions, LENGTHS, batch.targets - 1)
        assert torch.equal(packed_hidden_states(model, batch.ids, batch.positions, LENGTHS), expected)
        assert torch.equal(
            packed_hidden_states(model, batch.ids, batch.positions, LENGTHS, batch.targets[:0]), expected
        )


def test_a_batch_without_trained_tokens_has_a_gradient_of_zero():
    model, batch = packed("gpt2"), batch_of(LENGTHS)
    nothing = batch.with_weights(torch.zeros_like(batch.weights))
    compute_loss(model, nothing).nats.backward()
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in model.parameters())


def test_activation_checkpointing_computes_the_same_positions_again():
    model, batch = packed("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), batch_of(LENGTHS)
    expected = gradients_of(model, batch)
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # by transformers' version
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    found: dict[str, torch.Tensor] = {}
    everything, used = len(batch.ids), len(batch.targets)
    # Forward, and again in the backward pass, the last block first.
    assert rows_of_mlps(model, lambda: found.update(gradients_of(model, batch))) == [everything, used, used, everything]
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_an_adapter_trains_the_same():
    model, batch = built("gpt2", **PACKED["gpt2"]).train(), batch_of(LENGTHS)
    add_lora(model, rank=2, alpha=4.0, dropout=0.0, targets=(), new_ids=(), seed=0)
    assert use_packed_attention(model, longest=20)
    assert model.last_block is not None
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    found, expected = gradients_of(model, batch), gradients_of(restored(model), batch)
    assert any(float(gradient.abs().max()) > 0.001 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
def test_a_mixture_of_experts_is_computed_whole(kind):
    """It may route a position by the others in the batch."""
    model = built(kind, **(EXPERTS | {"shared_expert_intermediate_size": 16} if kind == "qwen2_moe" else EXPERTS))
    assert not trim_last_block(model)
    use_packed_attention(model, longest=20)
    assert getattr(model, "last_block", None) is None


@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_another_shape_is_computed_whole(kind):
    """OPT has no `mlp`; that of Bloom takes the residual too, which the probe finds."""
    sizes = {"ffn_dim": 48, "word_embed_proj_dim": 32} if kind == "opt" else {}
    model, batch = built(kind, **sizes), batch_of(LENGTHS)
    use_packed_attention(model, longest=20)
    assert getattr(model, "last_block", None) is None
    assert torch.isfinite(compute_loss(model, batch).nats)


def test_dropout_draws_the_noise_of_the_whole_block():
    """So a run of an earlier version, or one that is compiled, goes on with the same noise."""
    model, batch = packed("gpt2", resid_pdrop=0.3, embd_pdrop=0.0, attn_pdrop=0.0), batch_of(LENGTHS)
    fuse_activations(model)
    whole, found = restored(model), {}
    for name, one in {"trimmed": model, "whole": whole}.items():
        torch.manual_seed(3)
        found[name] = gradients_of(one, batch), torch.rand(1)
    (gradients, after), (expected, after_whole) = found["trimmed"], found["whole"]
    assert torch.equal(after, after_whole)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-6)


def test_dropout_inside_the_mlp_leaves_the_block_whole():
    """That of an adapter draws its noise for the rows that it gets."""
    model = built("gpt2")
    add_lora(model, rank=2, alpha=4.0, dropout=0.1, targets=(), new_ids=(), seed=0)
    assert use_packed_attention(model, longest=20)
    assert getattr(model, "last_block", None) is None


def test_an_mlp_of_several_blocks_is_computed_whole():
    model = built("llama", num_key_value_heads=2)
    blocks = find_blocks(model)
    blocks[0].mlp = blocks[1].mlp
    assert not trim_last_block(model)


def test_an_mlp_of_one_layer_is_computed_whole():
    model = built("llama", num_key_value_heads=2)
    for block in find_blocks(model):
        block.mlp = torch.nn.Linear(32, 32)
    assert use_packed_attention(model, longest=20)
    assert getattr(model, "last_block", None) is None
