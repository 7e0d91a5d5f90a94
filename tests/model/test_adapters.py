"""LoRA adapters: their gradients, what peft and a merged model make of them, and files that do not fit."""

import copy
import json

import pytest
import torch
from peft import PeftModel

from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.model.adapters import add_lora, find_linear_layers
from dialog_trainer.model.loss import compute_loss
from dialog_trainer.model.packed_forward import use_packed_attention
from tests.helpers.models import build
from tests.model.test_packed_forward import batch_of

NEW_IDS = [37, 38, 39]
# Tied with a plain head, not tied, and one on the padded path.
KINDS = {"gpt2": {}, "llama": {"tie_word_embeddings": False}, "bloom": {}}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def add(model, **options):
    return add_lora(
        model, **({"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": (), "new_ids": NEW_IDS, "seed": 0} | options)
    )


def small(kind: str):
    return build(kind, **KINDS[kind], **(NO_DROPOUT if kind == "gpt2" else {}))


def batch():
    """Random tokens, among them the new ones."""
    made = batch_of((9, 12, 5))
    return type(made)(made.ids % 40, made.roles, made.turns, made.positions, made.weights, made.lengths, made.divisor)


def change(model) -> None:
    """Other values of all trained tensors, as training makes them."""
    with torch.no_grad():
        for value in model.adapter.trained_tensors().values():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_whole_model(kind):
    """Those of a new row are those of its rows in the tables; an adapter of B = 0 gets A-projected ones of its layer."""
    whole, adapted = small(kind), small(kind)
    add(adapted)
    for model in (whole, adapted):
        use_packed_attention(model, 12)
        compute_loss(model.train(), batch()).nats.backward()
    assert {name for name, value in adapted.named_parameters() if value.grad is not None} == set(
        adapted.adapter.trained_tensors()
    )
    tables = {"embeddings": whole.get_input_embeddings(), "head": whole.get_output_embeddings()}
    assert set(adapted.lora_rows) == ({"embeddings", "head"} if kind == "llama" else {"embeddings"})
    for part, rows in adapted.lora_rows.items():
        torch.testing.assert_close(rows.values.grad, tables[part].weight.grad[NEW_IDS], rtol=1e-4, atol=1e-6)
    originals = find_linear_layers(whole)
    for name, layer in adapted.named_modules():
        if hasattr(layer, "lora_A"):
            gradient = originals[name].weight.grad
            gradient = gradient.T if kind == "gpt2" else gradient  # its layers hold the weight the other way round
            projected = 2.0 * gradient @ layer.lora_A["default"].weight.T
            torch.testing.assert_close(layer.lora_B["default"].weight.grad, projected, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft
@pytest.mark.parametrize("kind", KINDS)
def test_peft_and_a_merged_model_compute_the_same(kind, tmp_path):
    base, model = small(kind), small(kind)
    add(model)
    change(model)
    ids = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        assert (expected - base(input_ids=ids).logits).abs().max() > 1e-2
        tensors = {name: value.detach() for name, value in model.adapter.trained_tensors().items()}
        model.adapter.save(tmp_path, tensors, "base")
        assert all(
            torch.equal(value, base.state_dict()[name])
            for name, value in model.adapter.base_weights().items()
            if value.ndim < 2
        )
        by_peft = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
        torch.testing.assert_close(by_peft(input_ids=ids).logits, expected, rtol=0, atol=1e-4)
        base.load_state_dict(model.adapter.merged_weights())
        torch.testing.assert_close(base(input_ids=ids).logits, expected, rtol=0, atol=1e-4)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    first, again, other = small("gpt2"), small("gpt2"), small("gpt2")
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        add(model, seed=seed)
    key = "transformer.h.0.attn.c_attn.lora_A.default.weight"
    values = [dict(model.named_parameters())[key] for model in (first, again, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("mamba", {"in_proj", "x_proj", "dt_proj"}),
    ],
)
def test_every_linear_layer_but_the_head_gets_an_adapter(kind, layers):
    model = build(kind)
    add(model)
    adapted = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert adapted == layers
    with pytest.raises(ConfigError, match=f"has no linear layer nothing, lm_head; it has {', '.join(sorted(layers))}"):
        add(build(kind), targets=(min(layers), "nothing", "lm_head"))


def test_an_adapter_that_does_not_fit_is_named(tmp_path):
    model = small("gpt2")
    adapter = add(model)
    own = {name: value.detach() for name, value in adapter.trained_tensors().items()}
    first = min(own)

    def write(tensors) -> None:
        adapter.save(tmp_path, tensors, "/another/model")

    for tensors, reason in (
        ({name: value for name, value in own.items() if name != first}, "is in one of them alone"),
        (own | {"x": torch.ones(1)}, "base_model.model.x is in one of them alone"),
        (own | {first: own[first][:1]}, "does not fit: base_model"),
        (own | {first: own[first].to(torch.float16)}, "is F16"),
    ):
        write(tensors)
        with pytest.raises(CheckpointError, match=reason):
            adapter.load(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        adapter.load(tmp_path)
    write(own)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/no/such", "auto_mapping": {}})
    )
    adapter.load(tmp_path)  # its config is not read


def test_without_new_tokens_the_tables_are_frozen_whole():
    model = small("gpt2")
    assert not any("rows" in name for name in add(model, new_ids=()).trained_tensors())
    compute_loss(model.train(), batch()).nats.backward()
    assert model.get_input_embeddings().weight.grad is None
