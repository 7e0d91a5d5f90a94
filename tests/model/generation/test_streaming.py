"""A streamed reply: its pieces, its seed, and the engine that it shares with batches."""

import pytest
import torch
from helpers.models import always_say, build, random_contexts, wide_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.model.generation.generate import TokenRules, _TextStream, generate, generate_batch, stream_reply
from dialog_trainer.model.generation.sampling import GREEDY, Decoding

NEW = 8
SAMPLE = Decoding("sample", temperature=1.3, top_p=0.9)
RULES = TokenRules(ends=(5, 6), suppressed=(3, 4))


@pytest.fixture(scope="module")
def model(tokenizer):
    return wide_gpt2(tokenizer)


def stream(model, tokenizer, context, decoding=GREEDY, seed=0, max_new_tokens=NEW) -> tuple[str, list[str]]:
    pieces: list[str] = []
    reply = stream_reply(
        model, tokenizer, context, pieces.append, decoding=decoding, seed=seed, max_new_tokens=max_new_tokens
    )
    return reply, pieces


def whole_characters(text: str) -> str:
    return text.replace("\ufffd", "").strip()


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE], ids=lambda decoding: decoding.kind)
def test_stream_equals_batch(model, tokenizer, decoding):
    contexts = random_contexts([2, 8, 8, 25, 1, 33], tokenizer.special_tokens.start, 300)
    options = {"decoding": decoding, "seeds": range(6), "max_new_tokens": 20, "batch_tokens": 1000}
    replies = {index: ids for index, ids, _ in generate(model, tokenizer, contexts, **options)}
    for index, context in enumerate(contexts):
        reply, pieces = stream(model, tokenizer, context, decoding, seed=index, max_new_tokens=20)
        assert reply == "".join(pieces) == whole_characters(tokenizer.decode(replies[index]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 299), max_size=12), st.text(st.characters(codec="utf-8"), max_size=8))
def test_pieces_are_whole_characters_that_add_up(tokenizer, ids, text):
    ids += tokenizer.encode_batch([text])[0]
    pieces: list[str] = []
    shown = _TextStream(tokenizer, pieces.append)
    for token in ids:
        shown.add(token)
    assert shown.shown == "".join(pieces) == whole_characters(tokenizer.decode(ids))
    assert "" not in pieces
    assert "\ufffd" not in shown.shown


def test_characters_of_several_tokens_come_when_complete(tokenizer):
    text = "né €🙂 !"
    (ids,) = tokenizer.encode_batch([text])
    assert len(ids) > len(text)
    pieces: list[str] = []
    shown = _TextStream(tokenizer, pieces.append)
    for token in ids:
        shown.add(token)
    assert pieces == ["n", "é", " €", "🙂", " !"]


def test_reply_streams_token_by_token(tiny_model, tokenizer):
    (token,) = tokenizer.encode_batch(["e"])[0]
    always_say(tiny_model, token)
    assert stream(tiny_model, tokenizer, [5]) == ("e" * NEW, ["e"] * NEW)


@pytest.mark.parametrize(
    ("kind", "sizes"), [("gpt2", {}), ("mistral", {"sliding_window": 4}), ("mamba", {}), ("bloom", {})]
)
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE, Decoding("beam", beams=3)], ids=lambda decoding: decoding.kind)
def test_on_token_gets_each_token_of_each_reply(kind, sizes, decoding):
    model = build(kind, **sizes)
    tokens: dict[int, list[int]] = {row: [] for row in range(6)}
    replies = generate_batch(
        model, random_contexts([1, 7, 3, 12, 12, 20], 3, 40), decoding=decoding, seeds=range(6), rules=RULES,
        max_new_tokens=NEW, on_token=lambda row, token: tokens[row].append(token),
    )  # fmt: skip
    assert {row: ids for row, ids, _ in replies} == tokens
    assert any(tokens.values())


@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
def test_without_rules_no_token_ends_a_row(kind):
    model = build(kind)
    contexts = random_contexts([2] * 40, 3, 40)
    options = {"decoding": SAMPLE, "seeds": range(40), "max_new_tokens": NEW}
    replies = [ids for _, ids, ended in generate_batch(model, contexts, rules=TokenRules(), **options) if not ended]
    assert [len(ids) for ids in replies] == [NEW] * 40
    assert {2, 3, 4, 5, 6} & {token for ids in replies for token in ids}


@pytest.mark.slow
def test_sample_depends_on_its_seed_alone(model, tokenizer):
    (context,) = random_contexts([9], tokenizer.special_tokens.start, 300)

    def samples(torch_seed: int) -> list[str]:
        torch.manual_seed(torch_seed)
        return [stream(model, tokenizer, context, SAMPLE, seed, 20)[0] for seed in range(5)]

    assert samples(0) == samples(1)
    assert len(set(samples(0))) > 1


@pytest.mark.slow
def test_sample_may_be_any_token(model, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "decode", str)
    flat = Decoding("sample", temperature=1e4)
    assert len({stream(model, tokenizer, [9], flat, seed, 1)[0] for seed in range(120)}) > 55


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1e-6), (1e-4, 1.0)])
def test_narrow_sampling_is_greedy(model, tokenizer, temperature, top_p):
    for context in random_contexts([4, 9, 16], tokenizer.special_tokens.start, 300):
        narrow = Decoding("sample", temperature, top_p)
        assert stream(model, tokenizer, context, narrow) == stream(model, tokenizer, context)


def test_stream_ignores_dropout(model, tokenizer):
    (context,) = random_contexts([9], tokenizer.special_tokens.start, 300)
    expected = stream(model, tokenizer, context)
    model.train()
    assert stream(model, tokenizer, context) == expected


def test_interrupted_stream_restores_packed_attention(model, tokenizer):
    packed = model.config._attn_implementation

    def interrupt(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream_reply(model, tokenizer, [9, 12], interrupt, decoding=SAMPLE, seed=3, max_new_tokens=20)
    assert model.config._attn_implementation == packed
