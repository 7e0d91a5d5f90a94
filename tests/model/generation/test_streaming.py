"""A reply in pieces: streamed, sampled, the same as in a batch."""

import pytest
import torch
from helpers.models import always_say, contexts_of, wide_gpt2

from dialog_trainer.model.generation.generate import generate, stream_reply
from dialog_trainer.model.generation.sampling import GREEDY

NEW = 8


@pytest.fixture(scope="module")
def model(tokenizer):
    return wide_gpt2(tokenizer)


def streamed(model, tokenizer, context, **options) -> tuple[str, list[str]]:
    pieces: list[str] = []
    options = {"max_new_tokens": NEW, "temperature": 0.0, "top_p": 1.0} | options
    return stream_reply(model, tokenizer, context, on_text=pieces.append, **options), pieces


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [1, 5, 33])
def test_the_pieces_of_a_stream_join_to_the_reply(model, tokenizer, length, temperature):
    torch.manual_seed(0)
    for context in contexts_of([length] * 6, tokenizer.cls_id, 300, seed=length):
        reply, pieces = streamed(model, tokenizer, context, temperature=temperature, max_new_tokens=20)
        assert "".join(pieces).strip() == reply


def test_a_reply_is_streamed_piece_by_piece(tiny_model, tokenizer):
    (space,) = tokenizer.encode_batch([" "])[0]
    always_say(tiny_model, space)
    _, pieces = streamed(tiny_model, tokenizer, [5])
    assert [piece for piece in pieces if piece] == [" "] * NEW


def test_a_greedy_stream_says_what_a_batch_says(model, tokenizer):
    contexts = contexts_of([2, 8, 8, 25], tokenizer.cls_id, 300)
    options = {"decoding": GREEDY, "seeds": [0] * 4, "max_new_tokens": NEW, "batch_tokens": 1000}
    batched = {index: ids for index, ids, _ in generate(model, tokenizer, contexts, **options)}
    for index, context in enumerate(contexts):
        assert streamed(model, tokenizer, context)[0] == tokenizer.decode(batched[index]).strip()


def test_sampling_repeats_with_the_seed_and_varies_without(model, tokenizer):
    (context,) = contexts_of([9], tokenizer.cls_id, 300)

    def sampled(seed: int) -> str:
        torch.manual_seed(seed)
        return streamed(model, tokenizer, context, temperature=1.5, max_new_tokens=20)[0]

    assert [sampled(seed) for seed in range(5)] == [sampled(seed) for seed in range(5)]
    assert len({sampled(seed) for seed in range(5)}) > 1


def test_a_sample_may_be_any_token(model, tokenizer, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(tokenizer, "decode", str)
    said = {streamed(model, tokenizer, [9], temperature=1e4, max_new_tokens=1)[0] for _ in range(120)}
    assert len(said) > 55  # transformers draws from 50 unless told


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1e-6), (1e-4, 1.0)])
def test_a_narrow_top_p_and_a_low_temperature_are_greedy(model, tokenizer, temperature, top_p):
    for context in contexts_of([4, 9, 16], tokenizer.cls_id, 300):
        greedy = streamed(model, tokenizer, context)[0]
        assert streamed(model, tokenizer, context, temperature=temperature, top_p=top_p)[0] == greedy


def test_a_stream_is_without_dropout_whatever_the_models_mode(model, tokenizer):
    (context,) = contexts_of([9], tokenizer.cls_id, 300)
    expected = streamed(model, tokenizer, context)
    model.train()
    assert streamed(model, tokenizer, context) == expected
