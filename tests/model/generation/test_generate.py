"""Batched generation: KV cache, shared prefixes, rows that leave, every kind of decoding and of cache."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from helpers.models import always_say, build, random_contexts, wide_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.errors import ModelError
from dialog_trainer.model.generation import kv_cache
from dialog_trainer.model.generation.generate import generate
from dialog_trainer.model.generation.kv_cache import generate_with_cache, group_by_prefix, supports_kv_cache
from dialog_trainer.model.generation.sampling import GREEDY, Decoding, draw_uniforms
from dialog_trainer.model.kernels.attention import Packing
from dialog_trainer.model.packed_forward import ATTENTION, padded_attention
from dialog_trainer.types import SpecialTokens

pytestmark = pytest.mark.slow

NEW = 8
SAMPLE = Decoding("sample", temperature=1.3, top_p=0.9)
BEAM = Decoding("beam", beams=3)
SPECIAL_TOKENS = SimpleNamespace(
    special_tokens=SpecialTokens(start=3, separator=5, end=6, pad=4), end_id=6, pad_id=4,
    chat_format=SimpleNamespace(ends=(5, 6), suppressed=(3, 4)),
)  # fmt: skip
CACHED = {
    "gpt2": {}, "llama": {"num_key_value_heads": 2}, "gpt_neox": {}, "opt": {},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
}  # fmt: skip
# No position ids (bloom), a sliding window (mistral, gemma2), a recurrent state (mamba, jamba).
GENERATED = {
    "bloom": {}, "mistral": {"sliding_window": 4}, "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8}, "mamba": {},
    "jamba": {"mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
}  # fmt: skip
# Prefixes of each other, twice the same, one that has nothing before its last token.
PREFIXES = [c[:n] for c in random_contexts([20, 14], 3, 40) for n in (1, 3, 7, 7, 14, 20) if n <= len(c)]


@pytest.fixture(scope="module")
def model(tokenizer):
    return wide_gpt2(tokenizer)


def replies_of(model, tokenizer, contexts, batch_tokens, decoding=GREEDY, seeds=None) -> list[tuple[list[int], bool]]:
    seeds = list(range(len(contexts))) if seeds is None else seeds
    options = {"decoding": decoding, "seeds": seeds, "max_new_tokens": NEW, "batch_tokens": batch_tokens}
    produced = list(generate(model, tokenizer, contexts, **options))
    assert sorted(index for index, _, _ in produced) == list(range(len(contexts)))
    return [(ids, ended) for _, ids, ended in sorted(produced)]


def one_by_one(model, tokenizer, contexts, decoding=GREEDY) -> list[tuple[list[int], bool]]:
    return [replies_of(model, tokenizer, [one], 1, decoding, [index])[0] for index, one in enumerate(contexts)]


def slow_token(logits: torch.Tensor, number: float | None) -> int:
    """The most probable token, or by `SAMPLE`: sums over the ids of the nucleus, in plain Python."""
    if number is None:
        return int(logits.argmax())
    shares = (logits.double() / SAMPLE.temperature).softmax(0).tolist()
    nucleus, mass = set(), 0.0
    for token in sorted(range(len(shares)), key=lambda i: -shares[i]):
        if mass >= SAMPLE.top_p:
            break
        nucleus.add(token)
        mass += shares[token]
    left = number * mass
    for token in sorted(nucleus):
        left -= shares[token]
        if left < 0:
            return token
    raise AssertionError("no token")


def slow_reply(model, tokenizer, context: list[int], numbers: list[float | None]) -> tuple[list[int], bool]:
    """One context, one token at a time, the whole row each time, packed."""
    ids = list(context)
    model.eval()
    for number in numbers:
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([ids]),
                position_ids=torch.arange(len(ids)).unsqueeze(0),
                packing=Packing((len(ids),)),
                use_cache=False,
            ).logits[0, -1]
        logits[[tokenizer.special_tokens.start, tokenizer.pad_id]] = -torch.inf
        token = slow_token(logits, number)
        if token in (tokenizer.special_tokens.separator, tokenizer.end_id):
            return ids[len(context) :], True
        ids.append(token)
    return ids[len(context) :], False


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=9),
    st.sampled_from([1, 60, 150, 10_000]),
    st.integers(0, 1000),
)
def test_batched_replies_equal_slow_loop(model, tokenizer, cuts, batch_tokens, seed):
    whole = random_contexts([40, 40, 40], tokenizer.special_tokens.start, 300, seed)
    contexts = [whole[which][:length] for which, length in cuts]
    greedy = [slow_reply(model, tokenizer, context, [None] * NEW) for context in contexts]
    assert replies_of(model, tokenizer, contexts, batch_tokens) == greedy
    seeds = [seed + index for index in range(len(contexts))]
    numbers = draw_uniforms(seeds, NEW).tolist()
    sampled = [slow_reply(model, tokenizer, *pair) for pair in zip(contexts, numbers, strict=True)]
    assert replies_of(model, tokenizer, contexts, batch_tokens, SAMPLE, seeds) == sampled


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE, BEAM], ids=lambda decoding: decoding.kind)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(order=st.permutations(range(8)), batch_tokens=st.sampled_from([60, 150]))
def test_order_of_contexts_does_not_matter(model, tokenizer, decoding, order, batch_tokens):
    contexts = random_contexts([3, 9, 9, 20, 31, 2, 14, 40], tokenizer.special_tokens.start, 300)
    straight = replies_of(model, tokenizer, contexts, 10_000, decoding)
    shuffled = replies_of(model, tokenizer, [contexts[index] for index in order], batch_tokens, decoding, order)
    assert shuffled == [straight[index] for index in order]


def test_sample_depends_on_its_seed(model, tokenizer):
    (context,) = random_contexts([9], tokenizer.special_tokens.start, 300)
    found = replies_of(model, tokenizer, [context] * 12, 10_000, SAMPLE, [7] * 6 + list(range(6)))
    assert found[:6] == [found[0]] * 6
    assert len({tuple(ids) for ids, _ in found[6:]}) > 3


# A sample differs from a greedy reply in how a token is chosen, whatever the model.
@pytest.mark.parametrize(
    ("kind", "decoding"),
    [*((kind, decoding) for kind in CACHED | GENERATED for decoding in (GREEDY, BEAM)), ("gpt2", SAMPLE), ("mamba", SAMPLE)],
    ids=lambda value: getattr(value, "kind", value),
)  # fmt: skip
def test_batch_equals_single_for_each_kind_of_model(kind, decoding):
    model = build(kind, **(CACHED | GENERATED)[kind])
    assert supports_kv_cache(model) == (kind in CACHED)
    alone = one_by_one(model, SPECIAL_TOKENS, PREFIXES, decoding)
    assert len({tuple(ids) for ids, _ in alone}) > 3
    for batch_tokens in (100, 10_000):
        assert replies_of(model, SPECIAL_TOKENS, PREFIXES, batch_tokens, decoding) == alone


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "mistral", "mamba"])
@pytest.mark.parametrize("decoding", [GREEDY, BEAM], ids=lambda decoding: decoding.kind)
def test_replies_equal_transformers_generate(kind, decoding):
    model = build(kind, **(CACHED | GENERATED)[kind])
    for context, (ids, ended) in zip(
        PREFIXES, replies_of(model, SPECIAL_TOKENS, PREFIXES, 10_000, decoding), strict=True
    ):
        row = torch.tensor([context])
        output = model.generate(
            input_ids=row, attention_mask=torch.ones_like(row), max_new_tokens=NEW, do_sample=False,
            num_beams=decoding.beams, eos_token_id=[5, 6], pad_token_id=4, suppress_tokens=[3, 4],
        )[0, len(context) :].tolist()  # fmt: skip
        assert output[: len(ids)] == ids
        assert ended == (output[len(ids) : len(ids) + 1] in ([5], [6]))
        assert ended or len(ids) == NEW


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE], ids=lambda decoding: decoding.kind)
def test_both_engines_agree(model, tokenizer, decoding, monkeypatch):
    contexts = random_contexts([1, 4, 9, 30, 9, 17], tokenizer.special_tokens.start, 300)
    expected = replies_of(model, tokenizer, contexts, 1000, decoding)
    calls = []
    monkeypatch.setattr("dialog_trainer.model.generation.generate.supports_kv_cache", lambda model: calls.append(0))
    assert replies_of(model, tokenizer, contexts, 1000, decoding) == expected
    assert calls


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE, BEAM], ids=lambda decoding: decoding.kind)
def test_weights_that_are_not_finite_are_an_error(tiny_model, tokenizer, decoding, cached, value, monkeypatch):
    monkeypatch.setattr("dialog_trainer.model.generation.generate.supports_kv_cache", lambda model: cached)
    with torch.no_grad():
        tiny_model.transformer.ln_f.weight[3] = value
    with pytest.raises(ModelError, match="not finite: its weights are damaged"):
        replies_of(tiny_model, tokenizer, random_contexts([5, 9], tokenizer.special_tokens.start, 300), 1000, decoding)


def test_beams_count_as_rows(model, tokenizer, monkeypatch):
    sizes = []
    generate = model.generate

    def watched(**options):
        sizes.append(tuple(options["input_ids"].shape))
        return generate(**options)

    monkeypatch.setattr(model, "generate", watched)
    replies_of(
        model, tokenizer, random_contexts([20, 4, 11, 7, 20, 30], tokenizer.special_tokens.start, 300), 250, BEAM
    )
    assert all(BEAM.beams * rows * (width + NEW) <= 250 for rows, width in sizes)
    assert sum(rows for rows, _ in sizes) == 6
    assert len(sizes) < 6


def test_one_beam_is_greedy(model, tokenizer):
    contexts = random_contexts([1, 4, 9, 30], tokenizer.special_tokens.start, 300)
    assert replies_of(model, tokenizer, contexts, 1000, Decoding("beam")) == replies_of(
        model, tokenizer, contexts, 1000
    )


def test_replies_hold_no_special_token(model, tokenizer):
    contexts = random_contexts([1 + index % 30 for index in range(60)], tokenizer.special_tokens.start, 300)
    reserved = {tokenizer.special_tokens.start, tokenizer.pad_id, tokenizer.special_tokens.separator, tokenizer.end_id}
    for decoding in (GREEDY, SAMPLE, BEAM):
        found = replies_of(model, tokenizer, contexts, 500, decoding)
        assert {ended for _, ended in found} == {True, False}
        assert any(0 < len(ids) < NEW for ids, _ in found)
        for ids, ended in found:
            assert not reserved & set(ids)
            assert ended or len(ids) == NEW


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE, BEAM], ids=lambda decoding: decoding.kind)
@pytest.mark.parametrize("ending", ["separator", "end"])
def test_sep_and_end_of_text_end_a_reply(tiny_model, tokenizer, ending, decoding):
    always_say(tiny_model, getattr(tokenizer.special_tokens, ending))
    assert replies_of(tiny_model, tokenizer, [[5, 6], [7]], 1000, decoding) == [([], True), ([], True)]


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE, BEAM], ids=lambda decoding: decoding.kind)
@pytest.mark.parametrize("never", ["start", "pad"])
def test_cls_and_pad_are_never_generated(tiny_model, tokenizer, never, decoding):
    always_say(tiny_model, getattr(tokenizer.special_tokens, never))
    for ids, ended in replies_of(tiny_model, tokenizer, [[5, 6], [7]], 1000, decoding):
        assert ids
        assert getattr(tokenizer.special_tokens, never) not in ids
        assert ended or len(ids) == NEW


def test_stop_starts_no_further_batch(model, tokenizer):
    asked = []
    produced = generate(
        model,
        tokenizer,
        random_contexts([20, 20, 20], tokenizer.special_tokens.start, 300),
        decoding=GREEDY,
        seeds=[0, 0, 0],
        max_new_tokens=NEW,
        batch_tokens=1,
        stopped=lambda: asked.append(0) or len(asked) > 2,
    )
    assert [index for index, _, _ in produced] == [0, 1]
    assert model.config._attn_implementation == ATTENTION


@pytest.fixture
def passes(model, monkeypatch) -> list[SimpleNamespace]:
    """Of each forward pass: rows, tokens a row, the attention mask, the first two sizes of the logits."""
    seen = []
    forward = type(model).forward

    def watched(self, **options):
        output = forward(self, **options)
        rows, tokens = options["input_ids"].shape
        real = options["attention_mask"]
        shape = tuple(output.logits.shape[:2])
        seen.append(SimpleNamespace(rows=rows, tokens=tokens, real=real, logits=shape))
        return output

    monkeypatch.setattr(model, "forward", lambda **options: watched(model, **options))
    monkeypatch.setattr("dialog_trainer.model.generation.generate.supports_kv_cache", lambda model: True)
    return seen


def test_only_the_last_position_is_projected(model, tokenizer, passes):
    replies_of(model, tokenizer, random_contexts([20, 4, 11], tokenizer.special_tokens.start, 300), 1000)
    assert passes[0].tokens == 20
    assert all(one.logits == (one.rows, 1) for one in passes)


@pytest.mark.parametrize("batch_tokens", [1, 28, 60, 200, 10_000])
def test_batch_tokens_bounds_batches(model, tokenizer, batch_tokens, passes):
    whole = random_contexts([20, 4, 11, 7, 20, 30], tokenizer.special_tokens.start, 300)
    contexts = [*whole, whole[5][:9], whole[0][:5], whole[5][:12]]
    replies_of(model, tokenizer, contexts, batch_tokens)
    starts = [index for index, one in enumerate(passes) if one.tokens > 1] + [len(passes)]
    sizes = []
    for first, after in pairwise(starts):
        step = passes[first + 1]
        sizes.append((step.rows, step.real.shape[1] + NEW))
        assert passes[first].rows <= step.rows
        assert all(one.rows * one.real.shape[1] <= max(sizes[-1][0] * sizes[-1][1], 1) for one in passes[first:after])
    assert sum(rows for rows, _ in sizes) == len(contexts)
    assert all(rows == 1 or rows * width <= batch_tokens for rows, width in sizes)
    assert sizes[0][1] == 30 + NEW
    assert (len(sizes) == len(contexts)) == (batch_tokens in (1, 28))
    assert (len(sizes) == 1) == (batch_tokens == 10_000)


def test_shared_prefixes_are_read_once(model, tokenizer, passes):
    long, other = random_contexts([20, 11], tokenizer.special_tokens.start, 300)
    replies_of(model, tokenizer, [long[:4], other, long, long[:12], long], 10_000)
    assert [(one.rows, one.tokens) for one in passes if one.tokens > 1] == [(2, 20)]


def test_prefill_is_chunked(model, tokenizer, passes, monkeypatch):
    contexts = random_contexts([20, 4, 11, 7, 20, 30], tokenizer.special_tokens.start, 300)
    expected = replies_of(model, tokenizer, contexts, 10_000)
    passes.clear()
    monkeypatch.setattr(kv_cache, "PREFILL_TOKENS", 60)
    assert replies_of(model, tokenizer, contexts, 10_000) == expected
    assert [(one.rows, one.tokens) for one in passes if one.tokens > 1] == [(2, 30), (2, 20), (2, 7)]


def test_finished_rows_and_their_padding_leave_the_batch(model, tokenizer, passes):
    contexts = random_contexts([1 + index % 30 for index in range(24)], tokenizer.special_tokens.start, 300)
    whole = one_by_one(model, tokenizer, contexts)
    passes.clear()
    stops = [(index * 7) % NEW for index in range(24)]  # tokens before the end that is put upon each reply

    def choose(logits, rows, step):
        assert logits.shape == (len(rows), len(logits[0]))
        logits[:, [tokenizer.special_tokens.start, tokenizer.pad_id]] = -torch.inf
        stopped = torch.tensor([stops[row] == step for row in rows])
        return logits.argmax(-1).where(~stopped, tokenizer.special_tokens.separator)

    ends = (tokenizer.special_tokens.separator, tokenizer.end_id)
    with torch.no_grad(), padded_attention(model):
        produced = list(
            generate_with_cache(model, contexts, choose=choose, ends=ends, max_new_tokens=NEW, on_token=print)
        )
    assert {row: ids for row, ids, _ in produced} == {row: whole[row][0][: stops[row]] for row in range(24)}
    lengths = [len(ids) + ended for _, ids, ended in sorted(produced)]
    rows = list(range(24))
    sizes = []
    for step, one in enumerate(passes[1:]):
        living = [row for row in rows if lengths[row] > step]
        if len(living) <= 0.75 * len(rows):
            rows = living
        sizes.append(len(rows))
        assert one.rows == len(rows)
        assert one.real.shape[1] == max(len(contexts[row]) for row in rows) + step
        assert one.real.sum(1).tolist() == [len(contexts[row]) + step for row in rows]
    assert len(sizes) == max(lengths)
    assert len(set(sizes)) > 3


def test_reply_comes_as_soon_as_it_ends(model, tokenizer, passes):
    contexts = random_contexts([1 + index % 30 for index in range(24)], tokenizer.special_tokens.start, 300)
    options = {"decoding": GREEDY, "seeds": [0] * 24, "max_new_tokens": NEW, "batch_tokens": 10_000}
    for _, ids, ended in generate(model, tokenizer, contexts, **options):
        assert len(passes) == 1 + len(ids) + ended


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=8))
def test_prefix_chains_are_as_few_as_possible(contexts):
    found = group_by_prefix(contexts)
    assert sorted(index for chain in found for index in chain) == list(range(len(contexts)))
    for chain in found:
        for shorter, longer in pairwise(chain):
            assert contexts[longer][: len(contexts[shorter])] == contexts[shorter]
    # As few as can be: one for each context that begins no other (of equal ones, for one of them).
    ends = {tuple(c) for c in contexts if not any(o != c and o[: len(c)] == c for o in contexts)}
    assert len(found) == len(ends)


def test_replies_ignore_dropout(model, tokenizer):
    contexts = random_contexts([3, 9, 20], tokenizer.special_tokens.start, 300)
    expected = replies_of(model, tokenizer, contexts, 1000)
    model.train()
    assert replies_of(model, tokenizer, contexts, 1000) == expected


def test_no_contexts_give_no_replies(model, tokenizer):
    assert replies_of(model, tokenizer, [], 1000) == []
