"""Texts to ids: what a text cannot write, and which tokens are found in it."""

import json
import pickle

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece

from dialog_trainer.data.text_encoder import TextEncoder
from dialog_trainer.files import sha256_of_texts

LETTERS = [*"ab </s>▁</tool"]
CHARACTERS = list(dict.fromkeys(LETTERS))


def unigram():
    # Control tokens have the score 0 in files of SentencePiece, more than any text.
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in CHARACTERS)]
    made = Tokenizer(Unigram(vocabulary, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return made


def bpe(**options):
    vocabulary = {token: index for index, token in enumerate(["<unk>", "</s>", *CHARACTERS, "</", "s>"])}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    return Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", **options))


def ignoring_merges():
    vocabulary = {token: index for index, token in enumerate(["<unk>", "</s>", *CHARACTERS])}
    made = Tokenizer(BPE(vocabulary, [], unk_token="<unk>", ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def word_piece():
    pieces = ["<unk>", "</s>", *CHARACTERS, *(f"##{letter}" for letter in CHARACTERS)]
    made = Tokenizer(WordPiece({token: index for index, token in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def word_level():
    made = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def with_tokens(made, *, special=("<unk>", "</s>"), other=(), **options):
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.add_tokens([AddedToken(token, special=False, normalized=False, **options) for token in other])
    return made


@pytest.mark.parametrize("make", [unigram, bpe, ignoring_merges, word_piece, word_level])
@pytest.mark.parametrize("text", ["</s>", "a </s> b", "a</s></s>b", "<unk>"])
def test_a_text_writes_no_special_token_of_the_vocabulary(make, text):
    made = with_tokens(make())
    encoder = TextEncoder(made.to_str())
    [ids], [(same, ends)] = encoder.encode([text]), encoder.encode_with_ends([text])
    assert ids == same
    assert 1 not in ids
    assert ends == sorted(ends)
    assert ends[-1] == len(text)
    assert encoder.id_of("</s>") == 1
    assert encoder.digest() == sha256_of_texts(made.to_str())


@pytest.mark.parametrize("make", [unigram, bpe, ignoring_merges, word_piece, word_level])
def test_other_texts_have_the_ids_of_the_tokenizer(make):
    made = with_tokens(make())
    texts = ["a b", "ab ☃ tool", "/a <s >", ""]
    expected = [made.encode(text, add_special_tokens=False).ids for text in texts]
    assert TextEncoder(made.to_str()).encode(texts) == expected


@pytest.mark.parametrize("make", [unigram, bpe, word_piece])
def test_added_tokens_are_found_unless_their_name_is_that_of_a_control_token(make):
    made = with_tokens(make(), other=["<tool>", "[TOOL]", "ab", "  "])
    encoder = TextEncoder(made.to_str())
    ids = {token: encoder.id_of(token) for token in ("<tool>", "[TOOL]", "ab", "  ")}
    assert ids == {token: made.token_to_id(token) for token in ids}
    found = set(encoder.encode(["<tool> [TOOL] ab  x"])[0])
    assert found.isdisjoint({ids["<tool>"], ids["[TOOL]"], 1})
    assert {ids["ab"], ids["  "]} <= found
    assert not encoder.added_tokens()[ids["<tool>"]].special  # as it came
    assert encoder.digest() != sha256_of_texts(made.to_str())  # texts had other ids before


def test_an_encoder_in_another_process_encodes_the_same():
    encoder = TextEncoder(with_tokens(bpe(), other=["<tool>"]).to_str())
    texts = ["a </s> <tool> b"]
    assert pickle.loads(pickle.dumps(encoder)).encode(texts) == encoder.encode(texts)


def test_only_a_text_at_the_start_has_the_mark_of_a_start():
    made = unigram()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    encoder = TextEncoder(with_tokens(made).to_str())
    mark = encoder.id_of("▁")
    texts = ["ab", "a </s>"]
    at_start = encoder.encode_with_ends(texts, at_start=True)
    inside = encoder.encode_with_ends(texts)
    assert [ids for ids, _ in at_start] == [[mark, *ids] for ids, _ in inside]
    assert at_start[0][0] == made.encode("ab", add_special_tokens=False).ids
    assert all(1 not in ids for ids, _ in at_start)


@pytest.mark.parametrize(
    ("options", "normalizer", "reason"),
    [
        ({}, normalizers.Prepend("▁"), None),
        ({"normalized": True}, None, None),
        ({"normalized": True}, normalizers.Prepend("▁"), "normalized"),
        ({"single_word": True}, None, "single_word"),
    ],
)
def test_a_token_that_transformers_finds_otherwise_is_named(options, normalizer, reason):
    made = bpe()
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_special_tokens([AddedToken("<|x|>", special=True, **{"normalized": False} | options)])
    encoder = TextEncoder(made.to_str())
    [token] = encoder.added_tokens().values()
    why = encoder.why_found_otherwise(token)
    assert why is None if reason is None else reason in why


def test_merges_in_the_older_form_are_read():
    parts = json.loads(with_tokens(bpe()).to_str())
    parts["model"]["merges"] = [" ".join(merge) for merge in parts["model"]["merges"]]
    assert 1 not in TextEncoder(json.dumps(parts)).encode(["a</s>"])[0]
