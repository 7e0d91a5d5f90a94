"""The tokenizer: dialogue tokens cannot come from a text, and the chat template is the training format."""

import json
import os
import threading
import time
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from dialog_trainer.data.tokenizer import DialogueTokenizer, cut_long_words
from dialog_trainer.errors import ModelError
from dialog_trainer.types import Dialogue, Role, Turn


@pytest.fixture(params=["small", "gpt2"])
def either_tokenizer(request, tokenizer, gpt2_tokenizer):
    return {"small": tokenizer, "gpt2": gpt2_tokenizer}[request.param]


def test_dialogue_tokens_are_the_last_ids(either_tokenizer):
    size = len(either_tokenizer)
    assert (
        either_tokenizer.special_tokens.start,
        either_tokenizer.special_tokens.separator,
        either_tokenizer.pad_id,
    ) == (size - 3, size - 2, size - 1)
    assert (
        len(
            {
                either_tokenizer.special_tokens.start,
                either_tokenizer.special_tokens.separator,
                either_tokenizer.pad_id,
                either_tokenizer.end_id,
            }
        )
        == 4
    )
    assert either_tokenizer.added_tokens == 3


def test_gpt2_ids_are_those_of_the_original_program(gpt2_tokenizer):
    assert (gpt2_tokenizer.end_id, gpt2_tokenizer.special_tokens.start) == (50256, 50257)
    assert gpt2_tokenizer.encode_batch(["Hello !", " a"]) == [[15496, 5145], [257]]


@pytest.mark.parametrize("text", ["[SEP]", "a [CLS] b", "<|endoftext|>", "[PAD][PAD]"])
def test_a_text_cannot_hold_a_special_token(either_tokenizer, text):
    ids = either_tokenizer.encode_batch([text])[0]
    assert not {
        either_tokenizer.special_tokens.start,
        either_tokenizer.special_tokens.separator,
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


@pytest.mark.parametrize(
    ("end", "added", "note"),
    [
        (None, 1, "has no end-of-text token: <|endoftext|> is added"),
        ("[PAD]", 1, "has [PAD] as its end-of-text token, which has another use here: <|endoftext|> is added"),
        ("[CLS]", 1, "has [CLS] as its end-of-text token"),
        ("[SEP]", 0, "is [SEP], which ends each turn too"),
        ("</s>", 0, None),
    ],
)
def test_end_token_is_one_of_its_own(end, added, note, tmp_path):
    vocabulary = ["[UNK]", "hello", "</s>", "[CLS]", "[SEP]", "[PAD]"]
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    found = DialogueTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token=end))
    assert found.added_tokens == added
    assert len({found.special_tokens.start, found.pad_id, found.end_id}) == 3
    assert (found.end_id == found.special_tokens.separator) == (end == "[SEP]")
    assert [note in line for line in found.chat_format.notes] == ([True] if note else [])
    found.save(tmp_path)
    again = DialogueTokenizer.pretrained(str(tmp_path))
    assert (again.special_tokens, again.added_tokens) == (found.special_tokens, 0)


def test_save_and_load(either_tokenizer, tmp_path):
    either_tokenizer.save(tmp_path)
    again = DialogueTokenizer.pretrained(str(tmp_path))
    assert (again.digest(), again.added_tokens) == (either_tokenizer.digest(), 0)
    assert (again.special_tokens.start, again.special_tokens.separator, again.pad_id, again.end_id) == (
        either_tokenizer.special_tokens.start,
        either_tokenizer.special_tokens.separator,
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
    """Its ids, and the assistant's tokens by its `{% generation %}` marks; contents may be lists of parts."""
    roles = [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER]
    turns = tuple(Turn(role, text) for role, text in zip(roles, TEXTS, strict=True))
    ((sequence,),) = either_tokenizer.chat_format.encode_dialogues([Dialogue("a", turns)], 1000, "split")
    (prompt,) = either_tokenizer.chat_format.encode_contexts([*turns, Turn(Role.ASSISTANT, "")], [4], 1000)
    for content in (lambda text: text, lambda text: [{"type": "text", "text": text}]):
        messages = [{"role": turn.role.name.lower(), "content": content(turn.text)} for turn in turns]
        apply = partial(either_tokenizer.hf_tokenizer.apply_chat_template, messages, return_dict=True)
        found = apply(return_assistant_tokens_mask=True)
        assert found["input_ids"] == sequence.ids
        assert found["assistant_masks"] == [int(role in (Role.ASSISTANT, Role.END)) for role in sequence.roles]
        assert apply(add_generation_prompt=True)["input_ids"] == prompt


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


def saved_with(tokenizer, folder, **parts):
    """The folder of a tokenizer with other parts in its tokenizer.json."""
    tokenizer.save(folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    return str(folder)


def split_by(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@pytest.mark.slow
def test_a_regular_expression_that_does_not_end_is_given_up(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("dialog_trainer.data.text_encoder.SECONDS", 1)
    hostile = DialogueTokenizer.pretrained(saved_with(tokenizer, tmp_path, pre_tokenizer=split_by("a*a*[bc]")))
    assert hostile.encode_batch(["aab"])
    with pytest.raises(ModelError, match=r"has not finished 2,002 characters in time: a regular expression"):
        hostile.encode_batch(["a" * 2_000 + "!b"])  # some 5 seconds
    [given_up] = [thread for thread in threading.enumerate() if thread.name == "tokenizer"]
    given_up.join()


@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
def test_a_failure_of_the_tokenizer_is_a_message(tokenizer, tmp_path, capfd, part):
    replace = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
    parts = {part: split_by("(a+)+$") if part == "pre_tokenizer" else replace}
    hostile = DialogueTokenizer.pretrained(saved_with(tokenizer, tmp_path, **parts))
    with pytest.raises(ModelError, match=r"the tokenizer failed .*retry-limit.* choose another model"):
        hostile.encode_batch(["a" * 100 + "!"])
    capfd.readouterr()  # Rust prints its panic


def test_a_decoder_by_a_regular_expression_is_refused(tokenizer, tmp_path):
    decoder = {"type": "Replace", "pattern": {"Regex": "a*a*b"}, "content": "b"}
    with pytest.raises(ModelError, match="decodes by a regular expression"):
        DialogueTokenizer.pretrained(saved_with(tokenizer, tmp_path, decoder=decoder))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda path: os.truncate(path, 2**40), "is larger than 128 MiB"),
        (lambda path: path.write_text("[" * 10**6), "could not be loaded"),
        (lambda path: path.write_text('{"model": {"type": "BPE", "vocab": {"a": 1e999}}}'), "could not be loaded"),
    ],
)
def test_a_hostile_file_of_a_tokenizer_is_named(tokenizer, tmp_path, make, reason):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    if "regular" in reason:
        path.unlink()
    make(path)
    with pytest.raises(ModelError, match=reason):
        DialogueTokenizer.pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("word " * 1_000, [5_000]),
        ("a" * 1_000 + " " + "b" * 1_000, [2_001]),
        ("a" * 2_500, [1_000, 1_000, 500]),
        ("x " + "a" * 1_001 + " y" + " " * 1_001, [1_002, 1_003, 1]),
        ("", [0]),
    ],
)
def test_only_very_long_words_are_cut(text, lengths):
    parts = list(cut_long_words(text))
    assert "".join(parts) == text
    assert list(map(len, parts)) == lengths


@pytest.mark.parametrize("character", ["a", " ", "!", "🙂"])
def test_a_turn_without_a_space_takes_linear_time(character):
    text = character * (200_000 // len(character.encode()))
    start = time.monotonic()
    tokenizer = DialogueTokenizer.train([text, "the cat sat"], 300)
    assert tokenizer.decode(tokenizer.encode_batch([text])[0]) == text
    assert time.monotonic() - start < 15  # tens of seconds if it were quadratic


def test_an_absurd_token_id_is_refused(tokenizer, tmp_path):
    model = json.loads(tokenizer.hf_tokenizer.backend_tokenizer.to_str())["model"]
    model["vocab"]["weird"] = 2**32 - 1
    with pytest.raises(ModelError, match=r"has the token id 4,294,967,295"):
        DialogueTokenizer.pretrained(saved_with(tokenizer, tmp_path, model=model))


@pytest.mark.parametrize("place", ["added_tokens_decoder", "eos_token"])
def test_no_control_character_of_a_file_is_printed(tokenizer, tmp_path, capfd, place):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    token = {"content": "<|endoftext|>", "special": True, "\x1b]0;x\x07": 1}
    values = {"added_tokens_decoder": {"0": token}, "eos_token": token | {"__type": "AddedToken"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {place: values[place]}))
    with pytest.raises(ModelError, match=r"tokenizer_config.json has keys with control characters"):
        DialogueTokenizer.pretrained(str(tmp_path))
    assert capfd.readouterr().out == ""
