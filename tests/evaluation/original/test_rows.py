"""Rows of the original program's rule: prompt and generated text, and the target row."""

import functools
from types import SimpleNamespace

import pytest
import torch
from helpers.progress import RecordingProgress
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

from dialog_trainer.evaluation.original import rows
from dialog_trainer.evaluation.original.rows import (
    decode_row,
    format_prompt,
    format_target_row,
    generate_rows,
    tokenize_row,
)
from dialog_trainer.evaluation.original.scores import original_scores
from dialog_trainer.model.packed_forward import padded_attention
from dialog_trainer.types import Dialogue, Role, Turn

pytestmark = pytest.mark.slow


def dialogue(*texts: str, identifier: str = "d") -> Dialogue:
    return Dialogue(identifier, tuple(Turn(Role(1 + place % 2), text) for place, text in enumerate(texts)))


@pytest.fixture
def dialogues(dialogue_turns) -> list[Dialogue]:
    of_some = [dialogue(*turns[:4], identifier=str(number)) for number, turns in enumerate(dialogue_turns[:9])]
    return [*of_some, dialogue("the sea " * 60, "yes"), dialogue("a", "b")]


@pytest.fixture
def wishes(tiny_model):
    """`wishes(token)`: the model always predicts that token."""
    forward = tiny_model.forward

    def wish(token: int):
        @functools.wraps(forward)
        def forced(*arguments, **keys):
            output = forward(*arguments, **keys)
            output.logits[..., token] = 1e4
            return output

        tiny_model.forward = forced
        return tiny_model

    return wish


def test_a_prompt_is_the_first_turn(tokenizer):
    (ids,) = tokenizer.encode_batch(["the old car"])
    of = dialogue("the old car", "yes")
    assert format_prompt(of, tokenizer, 60) == [
        tokenizer.special_tokens.start,
        *ids,
        tokenizer.special_tokens.separator,
    ]
    assert format_prompt(of, tokenizer, len(ids) + 3) == [
        tokenizer.special_tokens.start,
        *ids,
        tokenizer.special_tokens.separator,
    ]
    assert format_prompt(of, tokenizer, len(ids) + 2) == [tokenizer.special_tokens.start, *ids]
    assert format_prompt(of, tokenizer, 3) == [tokenizer.special_tokens.start, ids[0]]


def test_a_target_is_the_dialogue_padded_or_cut(tokenizer):
    first, second = tokenizer.encode_batch(["the old car", "needs green tea"])
    whole = [
        tokenizer.special_tokens.start,
        *first,
        tokenizer.special_tokens.separator,
        *second,
        tokenizer.special_tokens.separator,
        tokenizer.end_id,
    ]
    of = dialogue("the old car", "needs green tea")
    for max_len in range(8, 60):
        row = format_target_row(of, tokenizer, max_len)
        assert len(row) == max_len
        assert row[: len(whole)] == whole[:max_len]
        assert set(row[len(whole) :]) <= {tokenizer.pad_id}


def test_a_target_row_as_text(tokenizer):
    of, whole = dialogue("hi", "ho"), "[CLS]hi[SEP]ho[SEP]<|endoftext|>"
    length = len(tokenizer.hf_tokenizer(whole, add_special_tokens=False).input_ids)
    texts = [decode_row(format_target_row(of, tokenizer, length + more), tokenizer, False) for more in (3, 0, -1)]
    assert texts == [whole + "[PAD]" * 3, whole, "[CLS]hi[SEP]ho[SEP]"]


# By GPT2Tokenizer of transformers 4.28.1: ids by name, what decode() gives, what tokenize() of that gives.
CLS, SEP, PAD, END = 50257, 50258, 50259, 50256
BY_TRANSFORMERS_4 = [
    ([CLS, 5812, 837, 340, 705, 82, 345, 5145, 314, 466, 299, 470, 760, 764, SEP, 3363, 764, SEP, END, PAD, PAD],
     "[CLS] Oh, it's you! I don't know. [SEP]  Yes. [SEP] <|endoftext|> [PAD] [PAD]",
     "[CLS] Oh , Ġit 's Ġyou ! ĠI Ġdon 't Ġknow . [SEP] Yes . [SEP] <|endoftext|> [PAD] [PAD]"),
    ([CLS, 40, 705, 285, 994, SEP, END, 345, 837, 1165, 5633, PAD, 764, SEP, SEP],
     "[CLS] I'm here [SEP] <|endoftext|> you, too? [PAD] . [SEP] [SEP]",
     "[CLS] I 'm Ġhere [SEP] <|endoftext|> Ġyou , Ġtoo ? [PAD] . [SEP] [SEP]"),
    ([66, 1878, 2634, SEP, 257, 220, 275, 220],
     "café [SEP]  a  b ",
     "c af Ã© [SEP] a Ġ Ġb Ġ"),
]  # fmt: skip


@pytest.mark.parametrize(("ids", "text", "tokens"), BY_TRANSFORMERS_4)
def test_rows_are_decoded_and_tokenized_as_by_transformers_4(gpt2_tokenizer, ids, text, tokens):
    assert decode_row(ids, gpt2_tokenizer, True) == text
    assert tokenize_row(text, gpt2_tokenizer, True) == tokens.split()


def test_runs_of_earlier_versions_are_scored_without_clean_up(gpt2_tokenizer):
    ids = [CLS, *gpt2_tokenizer.hf_tokenizer.encode("I do n't know .", add_special_tokens=False), SEP, PAD]
    text = decode_row(ids, gpt2_tokenizer, False)
    assert text == "[CLS]I do n't know .[SEP][PAD]"
    assert tokenize_row(text, gpt2_tokenizer, False) == gpt2_tokenizer.hf_tokenizer.convert_ids_to_tokens(ids)


def test_special_tokens_in_a_text_are_text(tokenizer):
    assert format_target_row(dialogue("[SEP]", "b"), tokenizer, 40).count(tokenizer.special_tokens.separator) == 2
    assert format_prompt(dialogue("[SEP]", "b"), tokenizer, 40).count(tokenizer.special_tokens.separator) == 1


@pytest.mark.parametrize("max_len", [8, 20, 64])
def test_a_row_is_greedy_up_to_the_window(tiny_model, tokenizer, max_len, dialogues):
    rows = generate_rows(dialogues, tiny_model, tokenizer, max_len=max_len, batch_tokens=3 * max_len)
    for one, row in zip(dialogues, rows, strict=True):
        ids = format_prompt(one, tokenizer, max_len)
        while len(ids) < max_len:
            with torch.no_grad(), padded_attention(tiny_model):
                logits = tiny_model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0, -1]
            ids.append(int(logits.argmax()))
        assert row == ids


@pytest.mark.parametrize("name", ["end", "separator", "pad", "start"])
def test_no_token_ends_a_row_or_is_suppressed(wishes, tokenizer, name, dialogues):
    token = getattr(tokenizer.special_tokens, name)
    model = wishes(token)
    rows = generate_rows(dialogues, model, tokenizer, max_len=40, batch_tokens=200)
    for one, row in zip(dialogues, rows, strict=True):
        prompt = format_prompt(one, tokenizer, 40)
        assert row == [*prompt, *[token] * (40 - len(prompt))]


def test_batches_change_no_row(tiny_model, tokenizer, dialogues):
    batches = [
        generate_rows(dialogues, tiny_model, tokenizer, max_len=48, batch_tokens=size) for size in (1, 100, 10_000)
    ]
    assert batches[0] == batches[1] == batches[2]
    backwards = generate_rows(dialogues[::-1], tiny_model, tokenizer, max_len=48, batch_tokens=10_000)
    assert backwards[::-1] == batches[0]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 400))
def test_a_batch_holds_no_more_tokens_than_allowed_but_one_row(batch_tokens):
    sizes = []

    def generate_batch(model, contexts, *, max_new_tokens, **_):
        sizes.append(len(contexts))
        return ((row, [0] * max_new_tokens, False) for row in range(len(contexts)))

    progress = RecordingProgress()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "generate_batch", generate_batch)
        patch.setattr(rows, "format_prompt", lambda of, *_: [int(of.id), *[0] * (int(of.id) % 3)])
        many = [dialogue("a", "b", identifier=str(number)) for number in range(20)]
        made = generate_rows(
            many, None, SimpleNamespace(pad_id=0), max_len=30, batch_tokens=batch_tokens, progress=progress
        )
    assert [row[0] for row in made] == list(range(20))
    assert max(sizes) == max(1, min(7, batch_tokens // 30))
    assert progress.counts == sizes
    assert sum(progress.counts) == 20


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_stop_gives_no_rows(tiny_model, tokenizer, batches, dialogues):
    progress = RecordingProgress(stop=lambda progress: len(progress.counts) >= batches)
    assert generate_rows(dialogues, tiny_model, tokenizer, max_len=48, batch_tokens=1, progress=progress) is None
    assert len(progress.counts) == batches


def test_scores_of_rows_equal_nltk(wishes, tokenizer):
    """Where the model writes [PAD] alone and the dialogue is short, nearly all is right: what that rule counts."""
    short = [dialogue("hi there", "ho"), dialogue("good books", "I know")]
    model = wishes(tokenizer.pad_id)
    rows = [
        decode_row(row, tokenizer, False)
        for row in generate_rows(short, model, tokenizer, max_len=48, batch_tokens=100)
    ]
    assert rows[0] == "[CLS]hi there[SEP]" + "[PAD]" * rows[0].count("[PAD]")
    targets = [decode_row(format_target_row(one, tokenizer, 48), tokenizer, False) for one in short]
    tokens = [[tokenizer.hf_tokenizer.tokenize(text) for text in texts] for texts in (rows, targets)]
    assert {len(row) for rows in tokens for row in rows} == {48}
    scores = original_scores(rows, targets, tokenizer.hf_tokenizer.tokenize, 60)
    assert scores["bleu4"] == pytest.approx(corpus_bleu([[row] for row in tokens[1]], tokens[0]))
    assert scores["bleu4"] > 0.7
