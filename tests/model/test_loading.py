"""Loading a model, fitting it to the vocabulary, and building one from scratch."""

import json
import re
import zipfile

import gguf
import numpy
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import ModelError
from dialog_trainer.model.fitting import limit_generation
from dialog_trainer.model.loading import build_from_scratch, describe_conversion, load_pretrained
from tests.helpers.gguf_files import write_gguf

OLD_ROWS = 300
KINDS = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "gpt_neox": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "gpt_neo": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
    "llama": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "opt": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16,
            "word_embed_proj_dim": 16},
    "phi": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
    "xglm": {"d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 16, "max_position_embeddings": 32},
}  # fmt: skip


@pytest.fixture
def saved(tokenizer: DialogueTokenizer, tmp_path):
    """Saves a random model of a kind, without the rows of the dialogue tokens, and returns its folder and itself."""

    def save(kind: str, *, tied: bool | None = None, rows: int = OLD_ROWS, **sizes):
        torch.manual_seed(0)
        if tied is not None:
            sizes["tie_word_embeddings"] = tied
        config = AutoConfig.for_model(
            kind,
            **(KINDS[kind] | {"vocab_size": rows, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0} | sizes),
        )
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model"), model

    return save


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_added_embeddings_start_at_the_mean(saved, tokenizer, kind, tied):
    folder, old = saved(kind, tied=tied)
    new = load_pretrained(folder, tokenizer, None)
    embeddings, head = new.get_input_embeddings().weight, new.get_output_embeddings().weight
    assert (embeddings is head) == tied
    for after, before in (
        (embeddings, old.get_input_embeddings().weight),
        (head, old.get_output_embeddings().weight),
    ):
        assert after.shape == (OLD_ROWS + 3, 16)
        assert torch.equal(after[:OLD_ROWS], before)
        torch.testing.assert_close(after[OLD_ROWS:], before.mean(dim=0).expand(3, 16))
    assert new.config.vocab_size == OLD_ROWS + 3


def test_added_bias_starts_at_the_mean(saved, tokenizer):
    folder, old = saved("phi")
    with torch.no_grad():
        old.get_output_embeddings().bias.normal_()
    old.save_pretrained(folder)
    bias, before = load_pretrained(folder, tokenizer, None).get_output_embeddings().bias, old.lm_head.bias
    assert torch.equal(bias[:OLD_ROWS], before)
    torch.testing.assert_close(bias[OLD_ROWS:], before.mean().expand(3))


def test_spare_embeddings_are_used_first(saved, tokenizer):
    folder, old = saved("gpt2", rows=320)
    new = load_pretrained(folder, tokenizer, None).get_input_embeddings().weight
    assert len(new) == 320
    before = old.get_input_embeddings().weight[:OLD_ROWS]
    assert torch.equal(new[:OLD_ROWS], before)
    torch.testing.assert_close(new[OLD_ROWS : OLD_ROWS + 3], before.mean(dim=0).expand(3, 16))


def test_a_token_beyond_a_gap_keeps_its_row_and_the_added_ones_their_ids(saved, tokenizer, tmp_path):
    backend = json.loads(tokenizer.hf_tokenizer.backend_tokenizer.to_str())
    backend["model"]["vocab"] |= {"far": 310}
    backend["added_tokens"] = backend["added_tokens"][:1]
    gap = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|endoftext|>")
    found = DialogueTokenizer(gap)
    found.save(tmp_path)
    assert DialogueTokenizer.pretrained(str(tmp_path)).special_tokens == found.special_tokens
    folder, old = saved("gpt2", rows=320)
    new = load_pretrained(folder, found, None).get_input_embeddings().weight
    assert torch.equal(new[310], old.get_input_embeddings().weight[310])
    assert torch.equal(new[found.special_tokens.separator], new[found.special_tokens.start])


def test_a_model_with_few_positions_keeps_its_padding(saved, tokenizer, tmp_path):
    """XGLM has a position of the number of its padding."""
    folder, _ = saved("xglm")
    load_pretrained(folder, tokenizer, None).save_pretrained(tmp_path / "again")
    load_pretrained(str(tmp_path / "again"), tokenizer, None)


def test_a_token_id_without_an_embedding_is_refused(saved, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    backend = json.loads((tmp_path / "tokenizer.json").read_text())
    backend["model"]["vocab"]["far"] = 5_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    far = DialogueTokenizer.pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="has the token id 5,000, but the model has no embedding for it"):
        load_pretrained(saved("gpt2")[0], far, None)
    load_pretrained(saved("gpt2", rows=5_001)[0], far, None)


def test_trained_model_loads_unchanged(saved, tokenizer, tmp_path):
    """With its spare rows, which are part of every softmax and so of an exact resume."""
    folder, _ = saved("gpt2", rows=320)
    trained = load_pretrained(folder, tokenizer, None)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter))
    trained.save_pretrained(tmp_path / "trained")
    tokenizer.save(tmp_path / "trained")
    trained_tokenizer = DialogueTokenizer.pretrained(str(tmp_path / "trained"))
    assert trained_tokenizer.added_tokens == 0
    again = load_pretrained(str(tmp_path / "trained"), trained_tokenizer, None).state_dict()
    assert again.keys() == trained.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in trained.state_dict().items())


def test_generation_config_ends_and_suppresses(saved, tokenizer):
    folder, _ = saved("gpt2")
    for model in (
        load_pretrained(folder, tokenizer, None),
        build_from_scratch(tokenizer, layers=1, heads=2, width=16, positions=32, dropout=0.0, seed=0),
    ):
        generation = model.generation_config
        assert generation.eos_token_id == [tokenizer.special_tokens.separator, tokenizer.end_id]
        assert generation.suppress_tokens == [tokenizer.special_tokens.start, tokenizer.pad_id]
        assert generation.pad_token_id == model.config.pad_token_id == tokenizer.pad_id
        assert generation.bos_token_id == model.config.bos_token_id == tokenizer.special_tokens.start
        assert model.config.eos_token_id == tokenizer.end_id
        assert not generation.do_sample


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_sets_each_probability(saved, tokenizer, kind):
    """Under whatever names a kind of model has them."""
    folder, _ = saved(kind)
    loaded = load_pretrained(folder, tokenizer, 0.0)
    ids = torch.arange(20).unsqueeze(0)
    assert torch.equal(loaded.train()(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits)
    loaded = load_pretrained(folder, tokenizer, 0.5)
    assert not torch.equal(loaded.train()(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits)


def test_dropout_none_keeps_the_config(saved, tokenizer):
    folder, _ = saved("gpt2", resid_pdrop=0.3, embd_pdrop=0.2, attn_pdrop=0.0)
    config = load_pretrained(folder, tokenizer, None).config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.3, 0.2, 0.0)


def test_scratch_weights_depend_on_the_seed_alone(tokenizer):
    def weights(seed: int, dropout: float) -> dict[str, torch.Tensor]:
        return build_from_scratch(
            tokenizer, layers=1, heads=2, width=16, positions=32, dropout=dropout, seed=seed
        ).state_dict()

    torch.manual_seed(1)
    first = weights(0, 0.0)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = weights(0, 0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["transformer.wte.weight"], weights(1, 0.0)["transformer.wte.weight"])


def test_scratch_model_has_the_given_shape(tokenizer):
    model = build_from_scratch(tokenizer, layers=3, heads=4, width=24, positions=40, dropout=0.25, seed=0)
    config = model.config
    assert (config.n_layer, config.n_head, config.n_embd, config.vocab_size) == (3, 4, 24, len(tokenizer))
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.25, 0.25, 0.25)
    assert config.max_position_embeddings == 40


def test_indivisible_width_names_both_options(tokenizer):
    with pytest.raises(ModelError, match=re.escape("model.width=18 is not a multiple of model.heads=4")):
        build_from_scratch(tokenizer, layers=1, heads=4, width=18, positions=8, dropout=0.0, seed=0)


WITHOUT_HUB = "without a hub pass model.pretrained_model=<folder>, or model=gpt2_tiny"
BROKEN_FOLDER = "the folder should hold what `save_pretrained` of transformers writes"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"config.json": "{"},
        {"config.json": '{"model_type": "gpt2"}'},
        {"config.json": '{"model_type": "t5"}'},
        {"config.json": '{"model_type": "gpt2", "n_embd": 12, "n_head": 5}'},
    ],
)
@pytest.mark.parametrize("check", [None, lambda weights: None])
def test_folder_without_model_names_remedy(tokenizer, tmp_path, files, check):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_pretrained(str(tmp_path), tokenizer, None, check)
    assert str(tmp_path) in str(caught.value)
    assert BROKEN_FOLDER in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2", "nobody/nothing", "/no/such/folder"])
def test_missing_model_names_remedy(tokenizer, name):
    with pytest.raises(ModelError) as caught:
        load_pretrained(name, tokenizer, None)
    assert str(caught.value).startswith(f"{name} could not be loaded (")
    assert WITHOUT_HUB in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def pickled(saved, tmp_path):
    """A folder with `pytorch_model.bin` in the place of safetensors, and its model."""
    _, model = saved("gpt2")
    (tmp_path / "model/model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model/pytorch_model.bin")
    return tmp_path / "model", model


def test_pickled_weights_are_read_where_they_are_allowed(pickled, tokenizer):
    folder, old = pickled
    with pytest.raises(ModelError, match="could not be loaded"):  # as in a run
        load_pretrained(str(folder), tokenizer, None)
    new = load_pretrained(str(folder), tokenizer, None, pickles=True)
    assert torch.equal(new.get_input_embeddings().weight[:OLD_ROWS], old.get_input_embeddings().weight)
    assert "a pickle, read by torch's safe loader" in describe_conversion(str(folder))


class _Canary:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return open, (str(self.place), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "best.pt"])
def test_a_pickle_of_a_stranger_runs_nothing(pickled, tokenizer, tmp_path, name):
    folder, model = pickled
    torch.save({"model": model.state_dict(), "log_data": _Canary(tmp_path / "canary")}, folder / name)
    with pytest.raises(ModelError, match=r"could not be loaded|is not read by torch's safe loader"):
        load_pretrained(str(folder / name if name == "best.pt" else folder), tokenizer, None, pickles=True)
    assert not (tmp_path / "canary").exists()


def test_compressed_weights_are_refused(pickled, tokenizer):
    file = pickled[0] / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6))
    with pytest.raises(ModelError, match="is compressed, and would unpack to 1,000,000 bytes"):
        load_pretrained(str(pickled[0]), tokenizer, None, pickles=True)


def test_a_checkpoint_of_the_original_program_loads(tokenizer, tmp_path):
    """Its module holds the model, resized for the dialogue tokens; its scores are numbers of numpy."""
    tokenizer.save(tmp_path)
    trained = build_from_scratch(tokenizer, layers=2, heads=1, width=64, positions=32, dropout=0.0, seed=1)
    state = {f"model.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"model": state, "log_data": {"bleu2": [numpy.float64(0.25)]}}, tmp_path / "model.pt")
    again = DialogueTokenizer.pretrained(str(tmp_path / "model.pt"))
    assert again.special_tokens == tokenizer.special_tokens
    found = load_pretrained(str(tmp_path / "model.pt"), again, None).state_dict()
    assert all(torch.equal(found[name], value) for name, value in trained.state_dict().items())


@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        ({"weights": 1}, "is no checkpoint of the original program, which holds its weights under 'model'"),
        ({"model": {"a": 1}}, "is no checkpoint of the original program"),
        ({"model": {"a": torch.ones(1)}}, "has no weights of a GPT-2"),
        ({"model": {"transformer.wte.weight": torch.ones(9, 64), "transformer.wpe.weight": torch.ones(8, 64)}},
         "has no weights for"),
    ],
)  # fmt: skip
def test_another_pt_file_is_named(tokenizer, tmp_path, saved, reason):
    torch.save(saved, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=reason):
        load_pretrained(str(tmp_path / "x.pt"), tokenizer, None)


def test_a_gguf_file_is_parsed_once_for_its_weights(tokenizer, tmp_path, monkeypatch):
    parsed, original = [], gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: parsed.append(path) or original(path))
    counting = gguf.GGUFReader
    write_gguf(tmp_path / "tiny.gguf", tokenizer)
    load_pretrained(str(tmp_path / "tiny.gguf"), tokenizer, None)
    assert len(parsed) == 1
    assert gguf.GGUFReader is counting


@pytest.mark.parametrize("quantized", [False, True])
def test_a_gguf_file_becomes_a_plain_model(tokenizer, tmp_path, quantized):
    weights = write_gguf(tmp_path / "tiny.gguf", tokenizer, quantized)
    read = DialogueTokenizer.pretrained(str(tmp_path / "tiny.gguf"))
    text = "the sea likes long walks"
    assert read.encode_batch([text]) == tokenizer.encode_batch([text])
    model = load_pretrained(str(tmp_path / "tiny.gguf"), read, None)
    embeddings = model.get_input_embeddings().weight[: len(weights["token_embd"])]
    torch.testing.assert_close(embeddings, torch.tensor(weights["token_embd"]), rtol=0, atol=5e-3 if quantized else 0)
    model.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    ids = torch.arange(20).unsqueeze(0)
    assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_saved_settings_bound_what_other_programs_generate(tokenizer, tmp_path):
    model = build_from_scratch(tokenizer, layers=1, heads=2, width=16, positions=32, dropout=0.0, seed=0)
    assert limit_generation(model, tokenizer, 7) == 32
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    read = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert (read["generation_config"]["max_new_tokens"], "do_sample" in read["generation_config"]) == (7, False)
    assert (read["config"]["n_ctx"], read["tokenizer_config"]["model_max_length"]) == (32, 32)


ABSURD = {
    "layers": ("gpt2", {"n_layer": 10**9}, r"n_layer=1,000,000,000 is more than the \d+ tensors"),
    "layers of llama": ("llama", {"num_hidden_layers": 10**8}, r"num_hidden_layers=100,000,000 is more than"),
    "layers in a list": (
        "gpt_neo",
        {"attention_types": [[["global"], 10**9]]},
        r"attention_types=1,000,000,000 is more",
    ),
    "layers inside": ("gpt2", {"text_config": {"num_layers": 10**9}}, r"num_layers=1,000,000,000 is more than"),
    "width": ("gpt2", {"n_embd": 10**7}, r"asks for [\d,]+ weights, and the files hold at most [\d,]+"),
    "vocabulary": ("gpt2", {"vocab_size": 10**12}, r"asks for [\d,]+ weights, and the files hold"),
    "more than fits": ("gpt2", {"n_positions": 10**30}, r"could not be loaded"),
    "more layers": ("gpt2", {"n_layer": 3}, r"asks for|has no weights for transformer.h.1.\S+ \(and \d+ others\)"),
    "a text": ("gpt2", {"n_layer": "x"}, r"could not be loaded"),
    "deep": ("gpt2", "[" * 100_000, r"could not be loaded"),
    "5,000 digits": ("gpt2", '{"n_layer": ' + "9" * 5000 + "}", r"could not be loaded"),
    "2 MiB": ("gpt2", " " * 2**21, r"config.json has 2,097,152 bytes"),
    "code of its own": ("gpt2", {"model_type": "other", "auto_map": {"AutoConfig": "evil.C"}}, r"could not be loaded"),
}


@pytest.mark.parametrize(("kind", "change", "reason"), ABSURD.values(), ids=ABSURD)
def test_a_strangers_config_is_bounded_and_runs_nothing(saved, tokenizer, tmp_path, monkeypatch, kind, change, reason):
    folder, _ = saved(kind)
    path = tmp_path / "model/config.json"
    path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change))
    (tmp_path / "model/evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("transformers asked"))
    with pytest.raises(ModelError, match=reason):
        load_pretrained(folder, tokenizer, None)
    assert not (tmp_path / "canary").exists()
