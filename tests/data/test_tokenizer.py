"""The tokenizer: dialogue tokens cannot come from a text, and the chat template is the training format."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from dialog_trainer.data.formatting import end_span, start_sequence
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import ModelError
from dialog_trainer.types import Role, SpecialTokens


@pytest.fixture(params=["small", "gpt2"])
def either_tokenizer(request, tokenizer, gpt2_tokenizer):
    return {"small": tokenizer, "gpt2": gpt2_tokenizer}[request.param]


def test_dialogue_tokens_are_the_last_ids(either_tokenizer):
    size = len(either_tokenizer)
    assert (either_tokenizer.cls_id, either_tokenizer.sep_id, either_tokenizer.pad_id) == (size - 3, size - 2, size - 1)
    assert (
        len({either_tokenizer.cls_id, either_tokenizer.sep_id, either_tokenizer.pad_id, either_tokenizer.end_id}) == 4
    )
    assert either_tokenizer.added_tokens == 3


def test_gpt2_ids_are_those_of_the_original_program(gpt2_tokenizer):
    assert (gpt2_tokenizer.end_id, gpt2_tokenizer.cls_id) == (50256, 50257)
    assert gpt2_tokenizer.encode_batch(["Hello !", " a"]) == [[15496, 5145], [257]]


@pytest.mark.parametrize("text", ["[SEP]", "a [CLS] b", "<|endoftext|>", "[PAD][PAD]"])
def test_a_text_cannot_hold_a_special_token(either_tokenizer, text):
    ids = either_tokenizer.encode_batch([text])[0]
    assert not {
        either_tokenizer.cls_id,
        either_tokenizer.sep_id,
        either_tokenizer.pad_id,
        either_tokenizer.end_id,
    } & set(ids)
    assert either_tokenizer.decode(ids) == text


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
@example("한국어 🙂\x00 [SEP] ' s ?\u2028\r\n")
def test_decode_inverts_encode(tokenizer, gpt2_tokenizer, text):
    for each in (tokenizer, gpt2_tokenizer):
        assert each.decode(each.encode_batch([text])[0]) == text


def test_save_and_load(either_tokenizer, tmp_path):
    either_tokenizer.save(tmp_path)
    again = DialogueTokenizer.pretrained(str(tmp_path))
    assert (again.digest(), again.added_tokens) == (either_tokenizer.digest(), 0)
    assert (again.cls_id, again.sep_id, again.pad_id, again.end_id) == (
        either_tokenizer.cls_id,
        either_tokenizer.sep_id,
        either_tokenizer.pad_id,
        either_tokenizer.end_id,
    )


def test_truncation_and_padding_of_the_tokenizer_are_ignored(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(pad_id=tokenizer.pad_id, pad_token="[PAD]")
    backend.save(str(tmp_path / "tokenizer.json"))
    texts = ["a", "the sea likes long walks and good books"]
    loaded = DialogueTokenizer.pretrained(str(tmp_path))
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert loaded.digest() == tokenizer.digest()
    loaded.hf_tokenizer(texts, padding=True, truncation=True, max_length=2)
    assert loaded.digest() == tokenizer.digest()


TEXTS = ["Hi , how are you ?", "Fine .", "'s it ? 한국어 🙂", "Don't know [x] !"]


def test_chat_template_is_the_training_format(either_tokenizer):
    roles = [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER]
    turns = either_tokenizer.encode_turns(TEXTS, roles)
    assert either_tokenizer.special_tokens == SpecialTokens(
        either_tokenizer.cls_id, either_tokenizer.sep_id, either_tokenizer.end_id, either_tokenizer.pad_id
    )
    messages = [{"role": role.name.lower(), "content": text} for role, text in zip(roles, TEXTS, strict=True)]
    for prompt in (False, True):
        ids = either_tokenizer.hf_tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=prompt, return_dict=True
        )["input_ids"]
        spans = turns if prompt else [*turns, end_span(turns, either_tokenizer.special_tokens)]
        assert ids == start_sequence(spans, either_tokenizer.special_tokens).ids


def test_training_is_deterministic_and_bounded():
    texts = ["the cat sat on the mat", "the dog sat on the log"] * 5
    first, second = (DialogueTokenizer.train(iter(texts), 270) for _ in range(2))
    assert first.digest() == second.digest()
    assert len(first) <= 270 + 3


def test_a_missing_tokenizer_names_the_option(tmp_path):
    with pytest.raises(ModelError, match=r"nobody/nothing could not be loaded .*model=gpt2_tiny"):
        DialogueTokenizer.pretrained("nobody/nothing")
    with pytest.raises(ModelError, match=r"could not be loaded .*the folder should hold what `save_pretrained`"):
        DialogueTokenizer.pretrained(str(tmp_path))
