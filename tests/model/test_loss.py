"""The loss of a packed batch against a slow reference."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.model import causal_lm
from dialog_trainer.model.loss import loss_sum
from dialog_trainer.model.packed import packed_logits, use_packed_attention
from dialog_trainer.records import Batch, LossSum

VOCABULARY = 303


@pytest.fixture(scope="module")
def model(vocabulary):
    assert len(vocabulary) == VOCABULARY
    model = causal_lm.from_scratch(vocabulary, layers=1, heads=2, width=16, positions=64, dropout=0.0, seed=0)
    assert use_packed_attention(model)
    return model.eval()


def pieces(lengths: list[int], seed: int) -> list[Batch]:
    """One batch a sequence; weights 0, 0.25 and 1."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for length in lengths:
        ids = torch.randint(0, VOCABULARY, (length,), generator=draw)
        weights = torch.tensor([0.0, 0.25, 1.0])[torch.randint(0, 3, (length,), generator=draw)]
        weights[0] = 0.0
        made.append(Batch(ids, torch.zeros_like(ids), torch.arange(length), weights, (length,)))
    return made


def joined(batches: list[Batch]) -> Batch:
    columns = [torch.cat([getattr(b, name) for b in batches]) for name in ("ids", "roles", "positions", "weights")]
    return Batch(*columns, lengths=tuple(length for batch in batches for length in batch.lengths))


def slow_nats(model, batch: Batch) -> float:
    """One token at a time, each predicted from the tokens before it in its own sequence."""
    nats = 0.0
    for ids, weights in zip(batch.ids.split(batch.lengths), batch.weights.split(batch.lengths), strict=True):
        for t in range(1, len(ids)):
            positions = torch.arange(t).unsqueeze(0)
            logits = model(
                input_ids=ids[:t].unsqueeze(0), position_ids=positions, sequence_lengths=(t,), use_cache=False
            ).logits[0, -1]
            nats -= float(weights[t]) * float(logits.double().log_softmax(0)[ids[t]])
    return nats


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 1000))
def test_the_sum_is_that_of_the_slow_reference(model, lengths, seed):
    batch = joined(pieces(lengths, seed))
    with torch.no_grad():
        found = loss_sum(model, batch)
        assert float(found.nats) == pytest.approx(slow_nats(model, batch), rel=1e-5, abs=1e-5)
    assert found.weight == float(batch.weights.sum())
    assert found.trained_tokens == int((batch.weights > 0).sum())
    assert found.tokens == sum(lengths)


@pytest.mark.parametrize("token", range(1, 6))
def test_the_weight_of_a_token_is_on_its_own_prediction(model, token):
    batch = pieces([6], 0)[0]
    weights = torch.zeros(6)
    weights[token] = 1.0
    batch = dataclasses.replace(batch, weights=weights)
    before = batch.ids[:token].unsqueeze(0)
    with torch.no_grad():
        logits = model(
            input_ids=before, position_ids=torch.arange(token).unsqueeze(0), sequence_lengths=(token,)
        ).logits
        expected = -float(logits[0, -1].log_softmax(0)[batch.ids[token]])
        assert float(loss_sum(model, batch).nats) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_sums_and_gradients_add_over_any_partition(model, lengths, data):
    parts = pieces(lengths, 3)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(parts) - 1))))
    groups = [parts[first:last] for first, last in zip([0, *cuts], [*cuts, len(parts)], strict=True)]

    def sum_and_gradient(batches: list[Batch]) -> tuple[LossSum, torch.Tensor]:
        model.zero_grad()
        sums = [loss_sum(model, batch) for batch in batches]
        for part in sums:
            part.nats.backward()
        total = sums[0]
        for part in sums[1:]:
            total += part
        return total, torch.cat([p.grad.flatten() for p in model.parameters()])

    whole, gradient = sum_and_gradient([joined(parts)])
    total, added = sum_and_gradient([joined(group) for group in groups])
    assert (total.weight, total.trained_tokens, total.tokens) == (whole.weight, whole.trained_tokens, whole.tokens)
    assert total.nats.item() == pytest.approx(whole.nats.item(), rel=1e-5)
    torch.testing.assert_close(added, gradient, rtol=0, atol=1e-5)


def test_a_batch_without_weight_gives_a_zero_in_the_graph(model):
    batch = joined(pieces([4, 1, 7], 0))
    batch = dataclasses.replace(batch, weights=torch.zeros_like(batch.weights))
    found = loss_sum(model, batch)
    assert (found.nats.item(), found.weight, found.trained_tokens, found.tokens) == (0.0, 0.0, 0, 12)
    model.zero_grad()
    found.nats.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_loss_of_logits_of_a_shorter_precision_is_computed_in_float32(model):
    short = copy.deepcopy(model).bfloat16()
    batch = joined(pieces([8, 9], 0))
    places = batch.weights.nonzero().squeeze(1)
    with torch.no_grad():
        logits = packed_logits(short, batch.ids, batch.positions, batch.lengths, at=places - 1)
        assert logits.dtype == torch.bfloat16
        nats = -logits.double().log_softmax(-1)[torch.arange(len(places)), batch.ids[places]]
        expected = float((nats * batch.weights[places]).sum())
        assert float(loss_sum(short, batch).nats) == pytest.approx(expected, rel=1e-6)
