"""Replies: batched and alone, cut at the end of a turn, streamed and sampled."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.model import causal_lm
from dialog_trainer.model.decoding import greedy_replies, stream_reply
from dialog_trainer.model.packed import ATTENTION, use_packed_attention

NEW = 8


@pytest.fixture(scope="module")
def model(vocabulary):
    """Random, with weights so wide that replies differ with their contexts and end at various lengths."""
    model = causal_lm.from_scratch(vocabulary, layers=2, heads=2, width=16, positions=64, dropout=0.3, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
        wte = model.get_input_embeddings().weight
        wte[[vocabulary.sep_id, vocabulary.end_id, vocabulary.cls_id, vocabulary.pad_id]] *= 10
    assert use_packed_attention(model)
    return model


def contexts_of(lengths: list[int], vocabulary, seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [[vocabulary.cls_id, *torch.randint(0, 300, (n - 1,), generator=draw).tolist()] for n in lengths]


def slow_reply(model, vocabulary, context: list[int], max_new_tokens: int) -> tuple[list[int], bool]:
    """One context, one token at a time, the whole row each time."""
    ids = list(context)
    model.eval()
    for _ in range(max_new_tokens):
        with torch.no_grad():
            row = torch.tensor([ids])
            logits = model(
                input_ids=row,
                position_ids=torch.arange(len(ids)).unsqueeze(0),
                sequence_lengths=(len(ids),),
                use_cache=False,
            ).logits[0, -1]
        logits[[vocabulary.cls_id, vocabulary.pad_id]] = -torch.inf
        token = int(logits.argmax())
        if token in (vocabulary.sep_id, vocabulary.end_id):
            return ids[len(context) :], True
        ids.append(token)
    return ids[len(context) :], False


def batched(model, vocabulary, contexts, batch_tokens: int) -> list[tuple[list[int], bool]]:
    produced = list(greedy_replies(model, vocabulary, contexts, max_new_tokens=NEW, batch_tokens=batch_tokens))
    assert sorted(index for index, _, _ in produced) == list(range(len(contexts)))
    return [(ids, ended) for _, ids, ended in sorted(produced)]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=9), st.sampled_from([1, 60, 150, 10_000]), st.integers(0, 1000)
)
def test_batched_replies_equal_a_slow_loop_over_one_context_at_a_time(model, vocabulary, lengths, batch_tokens, seed):
    contexts = contexts_of(lengths, vocabulary, seed)
    expected = [slow_reply(model, vocabulary, context, NEW) for context in contexts]
    assert batched(model, vocabulary, contexts, batch_tokens) == expected


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.permutations(range(8)), st.sampled_from([60, 150]))
def test_replies_do_not_depend_on_the_order_of_the_contexts(model, vocabulary, order, batch_tokens):
    contexts = contexts_of([3, 9, 9, 20, 31, 2, 14, 40], vocabulary)
    straight = batched(model, vocabulary, contexts, 10_000)
    shuffled = batched(model, vocabulary, [contexts[index] for index in order], batch_tokens)
    assert shuffled == [straight[index] for index in order]


def test_replies_are_cut_where_they_end_and_hold_no_token_of_the_format(model, vocabulary):
    replies = batched(model, vocabulary, contexts_of([1 + index % 30 for index in range(60)], vocabulary), 500)
    # The material covers both kinds, and the model would say [CLS] and [PAD] if it could.
    assert {ended for _, ended in replies} == {True, False}
    assert any(0 < len(ids) < NEW for ids, _ in replies)
    reserved = {vocabulary.cls_id, vocabulary.pad_id, vocabulary.sep_id, vocabulary.end_id}
    for ids, ended in replies:
        assert not reserved & set(ids)
        assert ended or len(ids) == NEW


@pytest.mark.parametrize("ending", ["sep_id", "end_id"])
def test_both_tokens_end_a_reply(tiny_model, vocabulary, ending):
    _always_say(tiny_model, getattr(vocabulary, ending))
    assert batched(tiny_model, vocabulary, [[5, 6], [7]], 1000) == [([], True), ([], True)]


@pytest.mark.parametrize("never", ["cls_id", "pad_id"])
def test_cls_and_pad_are_never_said(tiny_model, vocabulary, never):
    _always_say(tiny_model, getattr(vocabulary, never))
    for ids, ended in batched(tiny_model, vocabulary, [[5, 6], [7]], 1000):
        assert ids
        assert getattr(vocabulary, never) not in ids
        assert ended or len(ids) == NEW


def _always_say(model, token: int) -> None:
    """Makes `token` the likeliest everywhere: its row points along the last layer's constant output."""
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(0.01)
        model.transformer.ln_f.bias.fill_(1.0)
        model.get_input_embeddings().weight[token] = 5.0


def test_once_stopped_no_further_batch_is_started(model, vocabulary):
    asked = []
    produced = greedy_replies(
        model,
        vocabulary,
        contexts_of([20, 20, 20], vocabulary),
        max_new_tokens=NEW,
        batch_tokens=1,
        stopped=lambda: asked.append(0) or len(asked) > 2,
    )
    assert [index for index, _, _ in produced] == [0, 1]
    assert model.config._attn_implementation == ATTENTION


@pytest.mark.parametrize("batch_tokens", [1, 28, 60, 200, 10_000])
def test_no_batch_is_wider_than_allowed_but_one_of_one_row(model, vocabulary, batch_tokens, monkeypatch):
    sizes = []
    generate = model.generate

    def watched(**options):
        sizes.append(tuple(options["input_ids"].shape))
        return generate(**options)

    monkeypatch.setattr(model, "generate", watched)
    batched(model, vocabulary, contexts_of([20, 4, 11, 7, 20, 30], vocabulary), batch_tokens)
    assert sum(rows for rows, _ in sizes) == 6
    assert all(rows == 1 or rows * (width + NEW) <= batch_tokens for rows, width in sizes)
    assert sizes[0][1] == 30
    assert (len(sizes) == 6) == (batch_tokens in (1, 28))


def streamed(model, vocabulary, context, **options) -> tuple[str, list[str]]:
    pieces: list[str] = []
    options = {"max_new_tokens": NEW, "temperature": 0.0, "top_p": 1.0} | options
    return stream_reply(model, vocabulary, context, on_text=pieces.append, **options), pieces


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [1, 5, 33])
def test_the_pieces_of_a_stream_join_to_the_reply(model, vocabulary, length, temperature):
    torch.manual_seed(0)
    for context in contexts_of([length] * 6, vocabulary, seed=length):
        reply, pieces = streamed(model, vocabulary, context, temperature=temperature, max_new_tokens=20)
        assert "".join(pieces).strip() == reply


def test_a_reply_is_streamed_piece_by_piece(tiny_model, vocabulary):
    (space,) = vocabulary.encode_batch([" "])[0]
    _always_say(tiny_model, space)
    _, pieces = streamed(tiny_model, vocabulary, [5])
    assert [piece for piece in pieces if piece] == [" "] * NEW


def test_a_greedy_stream_says_what_a_batch_says(model, vocabulary):
    contexts = contexts_of([2, 8, 8, 25], vocabulary)
    said = [streamed(model, vocabulary, context)[0] for context in contexts]
    assert said == [vocabulary.decode(ids).strip() for ids, _ in batched(model, vocabulary, contexts, 1000)]


def test_sampling_repeats_with_the_seed_and_varies_without(model, vocabulary):
    (context,) = contexts_of([9], vocabulary)

    def sampled(seed: int) -> str:
        torch.manual_seed(seed)
        return streamed(model, vocabulary, context, temperature=1.5, max_new_tokens=20)[0]

    assert [sampled(seed) for seed in range(5)] == [sampled(seed) for seed in range(5)]
    assert len({sampled(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1e-6), (1e-4, 1.0)])
def test_a_narrow_top_p_and_a_low_temperature_are_greedy(model, vocabulary, temperature, top_p):
    for context in contexts_of([4, 9, 16], vocabulary):
        greedy = streamed(model, vocabulary, context)[0]
        assert streamed(model, vocabulary, context, temperature=temperature, top_p=top_p)[0] == greedy


def test_replies_are_without_dropout_whatever_the_models_mode(model, vocabulary):
    contexts = contexts_of([3, 9, 20], vocabulary)
    expected = [slow_reply(model, vocabulary, context, NEW)[0] for context in contexts]
    model.train()
    assert [ids for ids, _ in batched(model, vocabulary, contexts, 1000)] == expected
    model.train()
    assert streamed(model, vocabulary, contexts[1])[0] == vocabulary.decode(expected[1]).strip()
