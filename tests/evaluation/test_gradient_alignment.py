"""Gradient alignment, against gradients of one sequence at a time."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dialog_trainer.data.packing import pack_sequences, weigh_every_turn
from dialog_trainer.evaluation.gradient_alignment import measure_gradient_alignment
from dialog_trainer.model.packed_forward import padded_attention, use_packed_attention
from dialog_trainer.types import Role, TurnSpans

S, U, A, END, START = Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.END, Role.FORMAT
# Runs (role, tokens) of each sequence of each batch.
BATCHES = [
    [[(START, 1), (U, 5), (A, 4), (END, 1)], [(START, 1), (S, 3), (U, 2), (A, 7)]],
    [[(START, 1), (A, 3), (U, 4), (A, 1), (END, 1)]],
]
KINDS = {
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32},
    "llama": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16},
    "gpt_neox": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16},
}
GROUPS = ("embeddings", "block_00", "block_01", "block_02", "head")


def parts_of(model) -> dict[str, list]:
    """The modules of each group, by hand."""
    kind = model.config.model_type
    if kind == "gpt2":
        body = model.transformer
        inside, blocks, after = [body.wte, body.wpe], body.h, body.ln_f
    elif kind == "llama":
        inside, blocks, after = [model.model.embed_tokens], model.model.layers, model.model.norm
    else:
        body = model.gpt_neox
        inside, blocks, after = [body.embed_in], body.layers, body.final_layer_norm
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    head = [after] if tied else [after, model.get_output_embeddings()]
    return dict(zip(GROUPS, (inside, *([block] for block in blocks), head), strict=True))


def built(kind: str, tied: bool, **sizes):
    torch.manual_seed(5)
    ids = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(kind, **KINDS[kind], **ids, tie_word_embeddings=tied, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert use_packed_attention(model)
    return model


def batches_of(sequences_of_batches=BATCHES):
    draw = np.random.default_rng(3)
    batches = []
    for sequences in sequences_of_batches:
        flat = [(role, turn, length) for runs in sequences for turn, (role, length) in enumerate(runs)]
        roles, turns, lengths = (np.array(column, dtype=np.int64) for column in zip(*flat, strict=True))
        counts = np.array([len(runs) for runs in sequences])
        weights = np.ones(len(flat), dtype=np.float32)
        runs = TurnSpans(roles, turns, lengths, lengths * 0, weights, counts, np.arange(len(counts)))
        batches.append(pack_sequences(draw.integers(0, 60, lengths.sum()), runs, weigh_every_turn))
    return batches


def slow_gradient(model, batches, role) -> dict[str, torch.Tensor]:
    """Of the mean loss over the tokens of `role`: a sequence at a time, backward, in a copy."""
    model = copy.deepcopy(model).eval()
    nlls = []
    for batch in batches:
        for ids, roles in zip(batch.ids.split(batch.lengths), batch.roles.split(batch.lengths), strict=True):
            with padded_attention(model):
                logs = model(input_ids=ids.unsqueeze(0)).logits[0].log_softmax(-1)
            nlls += [-logs[t - 1, ids[t]] for t in range(1, len(ids)) if roles[t] == role]
    torch.stack(nlls).mean().backward()
    named = {id(parameter): parameter.grad for parameter in model.parameters()}
    parts = parts_of(model)
    grads = {
        group: torch.cat([named[id(p)].flatten() for module in modules for p in module.parameters()])
        for group, modules in parts.items()
    }
    return {"": torch.cat(list(grads.values())), **{f"_{group}": gradient for group, gradient in grads.items()}}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_cosine_and_norms_equal_the_reference(kind, tied):
    model, batches = built(kind, tied), batches_of()
    user, assistant = (slow_gradient(model, batches, role) for role in (U, A))
    assert len(user[""]) == sum(parameter.numel() for parameter in model.parameters())
    expected = {}
    for suffix, of_user in user.items():
        of_assistant = assistant[suffix]
        expected[f"alignment_cosine{suffix}"] = float(torch.cosine_similarity(of_user, of_assistant, dim=0))
        expected[f"alignment_user_norm{suffix}"] = float(of_user.norm())
        expected[f"alignment_assistant_norm{suffix}"] = float(of_assistant.norm())
    assert measure_gradient_alignment(model, batches) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    cosines = [value for name, value in expected.items() if "cosine" in name]
    assert max(cosines) - min(cosines) > 0.05  # no two groups could be taken for each other


def test_batches_do_not_matter():
    model = built("gpt2", True)
    together = batches_of([[sequence for sequences in BATCHES for sequence in sequences]])
    assert measure_gradient_alignment(model, batches_of()) == pytest.approx(
        measure_gradient_alignment(model, together), rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_not_changed(training):
    model = built("gpt2", True, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train(training)
    model.transformer.wte.weight.grad = torch.ones_like(model.transformer.wte.weight)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    first = measure_gradient_alignment(model, batches_of())
    assert measure_gradient_alignment(model, batches_of()) == first
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(module.training == training for module in model.modules())
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert list(grads) == ["transformer.wte.weight"]
    assert torch.equal(grads["transformer.wte.weight"], torch.ones_like(model.transformer.wte.weight))
    assert not any(parameter.requires_grad is False for parameter in model.parameters())
    plain = built("gpt2", True)
    plain.load_state_dict(weights)
    assert first == measure_gradient_alignment(plain, batches_of())  # without dropout


def test_the_training_flag_is_restored_after_an_error(monkeypatch):
    model = built("gpt2", True).train()
    monkeypatch.setattr(model.base_model, "forward", lambda **keys: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_gradient_alignment(model, batches_of())
    assert model.training


@pytest.mark.parametrize("silent", [U, A])
def test_a_role_without_a_token_has_norm_and_cosine_0(silent):
    spoken = A if silent == U else U
    values = measure_gradient_alignment(built("gpt2", True), batches_of([[[(START, 1), (spoken, 6), (END, 1)]]]))
    names = {U: "user", A: "assistant"}
    for suffix in ("", *(f"_{group}" for group in GROUPS)):
        assert values[f"alignment_cosine{suffix}"] == 0.0
        assert values[f"alignment_{names[silent]}_norm{suffix}"] == 0.0
        assert values[f"alignment_{names[spoken]}_norm{suffix}"] > 0


def test_equal_tokens_of_both_roles_have_cosine_1():
    """Twice the same ids, once as the user's and once as the assistant's words."""
    batch = batches_of([[[(START, 1), (U, 6)], [(START, 1), (A, 6)]]])[0]
    batch.ids[7:] = batch.ids[:7]
    values = measure_gradient_alignment(built("gpt2", False), [batch])
    for suffix in ("", *(f"_{group}" for group in GROUPS)):
        assert values[f"alignment_cosine{suffix}"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e30])
def test_gradients_that_are_not_finite_give_none(poison):
    model = built("gpt2", True)
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = poison
    values = measure_gradient_alignment(model, batches_of())
    assert values["alignment_cosine"] is values["alignment_user_norm"] is values["alignment_cosine_block_01"] is None
    assert len(values) == 3 * (1 + len(GROUPS))
    assert not any(isinstance(value, float) and not abs(value) < torch.inf for value in values.values())
