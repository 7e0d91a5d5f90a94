"""The loss of a packed batch against a slow reference."""

import copy
import dataclasses

import pytest
import torch
from helpers.batches import VOCABULARY, join_batches, random_batches
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.model.kernels.attention import Packing
from dialog_trainer.model.loading import build_from_scratch
from dialog_trainer.model.loss import compute_loss
from dialog_trainer.model.packed_forward import packed_logits, use_packed_attention
from dialog_trainer.types import NUM_TURN_BINS, Batch, LossSum, Role


@pytest.fixture(scope="module")
def model(tokenizer):
    assert len(tokenizer) == VOCABULARY
    model = build_from_scratch(tokenizer, layers=1, heads=2, width=16, positions=64, dropout=0.0, seed=0)
    assert use_packed_attention(model)
    return model.eval()


def slow_nlls(model, batch: Batch) -> list[tuple[float, float, int, int]]:
    """`(nll, weight, role, turn)` of one token after the other, each predicted from those before it in its sequence."""
    found = []
    columns = (getattr(batch, name).split(batch.lengths) for name in ("ids", "weights", "roles", "turns"))
    for ids, weights, roles, turns in zip(*columns, strict=True):
        for t in range(1, len(ids)):
            positions = torch.arange(t).unsqueeze(0)
            logits = model(
                input_ids=ids[:t].unsqueeze(0), position_ids=positions, packing=Packing((t,)), use_cache=False
            ).logits[0, -1]
            nll = -float(logits.double().log_softmax(0)[ids[t]])
            found.append((nll, float(weights[t]), int(roles[t]), int(turns[t])))
    return found


def slow_role_turn_sums(tokens: list[tuple[float, float, int, int]]) -> torch.Tensor:
    """Sum and number of the nlls with a weight above 0, unweighted, by role and turn."""
    role_turn_sums = torch.zeros(2, len(Role), NUM_TURN_BINS)
    for nll, weight, role, turn in tokens:
        if weight > 0:
            role_turn_sums[0, role, min(turn, NUM_TURN_BINS - 1)] += nll
            role_turn_sums[1, role, min(turn, NUM_TURN_BINS - 1)] += 1
    return role_turn_sums


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 1000))
def test_sum_equals_slow_reference(model, lengths, seed):
    batch = join_batches(random_batches(lengths, seed))
    with torch.no_grad():
        found = compute_loss(model, batch)
        tokens = slow_nlls(model, batch)
    assert float(found.nats) == pytest.approx(sum(nll * weight for nll, weight, *_ in tokens), rel=1e-5, abs=1e-5)
    torch.testing.assert_close(found.role_turn_sums, slow_role_turn_sums(tokens), rtol=1e-5, atol=1e-5)
    assert int(found.role_turn_sums[1].sum()) == int((batch.weights > 0).sum())


def test_role_turn_sums_ignore_weights(model):
    """The last bin holds all turns from the eleventh on."""
    (batch,) = random_batches([9], 5)
    roles = torch.tensor([Role.FORMAT, *[Role.USER] * 3, *[Role.ASSISTANT] * 3, Role.END, Role.SYSTEM])
    turns = torch.tensor([0, 0, 0, 9, 10, 11, 12, 5000, 3])
    weights = torch.tensor([0, 1, 0.5, 0.001, 1, 1000, 0.25, 1, 0])
    with torch.no_grad():
        whole = compute_loss(
            model, dataclasses.replace(batch, roles=roles, turns=turns, weights=(weights > 0).float(), targets=None)
        )
        found = compute_loss(
            model, dataclasses.replace(batch, roles=roles, turns=turns, weights=weights, targets=None)
        ).role_turn_sums
    torch.testing.assert_close(found, whole.role_turn_sums, rtol=1e-5, atol=0)
    places = {(Role.USER, 0): 2, (Role.USER, 9): 1, (Role.ASSISTANT, 10): 1, (Role.ASSISTANT, 11): 2, (Role.END, 11): 1}
    assert {tuple(place): int(found[1, *place]) for place in found[1].nonzero().tolist()} == places
    assert torch.equal(found[0] > 0, found[1] > 0)
    assert found[0].sum().item() == pytest.approx(whole.nats.item(), rel=1e-5)


def test_role_turn_sums_have_no_gradient(model):
    found = compute_loss(model, join_batches(random_batches([4, 6], 0)))
    assert found.nats.requires_grad
    assert not found.role_turn_sums.requires_grad


@pytest.mark.parametrize("token", range(1, 6))
def test_weight_of_a_token_is_on_its_own_prediction(model, token):
    batch = random_batches([6], 0)[0]
    weights = torch.zeros(6)
    weights[token] = 1.0
    batch = batch.with_weights(weights)
    before = batch.ids[:token].unsqueeze(0)
    with torch.no_grad():
        logits = model(
            input_ids=before, position_ids=torch.arange(token).unsqueeze(0), packing=Packing((token,))
        ).logits
        expected = -float(logits[0, -1].log_softmax(0)[batch.ids[token]])
        assert float(compute_loss(model, batch).nats) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_sums_and_gradients_add_over_any_partition(model, lengths, data):
    parts = random_batches(lengths, 3)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(parts) - 1))))
    groups = [parts[first:last] for first, last in zip([0, *cuts], [*cuts, len(parts)], strict=True)]

    def sum_and_gradient(batches: list[Batch]) -> tuple[LossSum, torch.Tensor]:
        model.zero_grad()
        sums = [compute_loss(model, batch) for batch in batches]
        for part in sums:
            part.nats.backward()
        total = LossSum(sum(part.nats for part in sums), sum(part.role_turn_sums for part in sums))
        return total, torch.cat([p.grad.flatten() for p in model.parameters()])

    whole, gradient = sum_and_gradient([join_batches(parts)])
    total, added = sum_and_gradient([join_batches(group) for group in groups])
    assert torch.equal(total.role_turn_sums[1], whole.role_turn_sums[1])
    torch.testing.assert_close(total.role_turn_sums[0], whole.role_turn_sums[0], rtol=1e-5, atol=1e-5)
    assert total.nats.item() == pytest.approx(whole.nats.item(), rel=1e-5)
    torch.testing.assert_close(added, gradient, rtol=0, atol=1e-5)


def test_zero_weights_give_a_zero_in_the_graph(model):
    batch = join_batches(random_batches([4, 1, 7], 0))
    batch = batch.with_weights(torch.zeros_like(batch.weights))
    found = compute_loss(model, batch)
    assert (found.nats.item(), found.role_turn_sums.any().item()) == (0.0, False)
    assert (tuple(found.role_turn_sums.shape), bool(found.role_turn_sums.any())) == (
        (2, len(Role), NUM_TURN_BINS),
        False,
    )
    model.zero_grad()
    found.nats.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_bf16_logits_have_fp32_loss(model):
    short = copy.deepcopy(model).bfloat16()
    batch = join_batches(random_batches([8, 9], 0))
    places = batch.weights.nonzero().squeeze(1)
    with torch.no_grad():
        logits = packed_logits(short, batch.ids, batch.positions, batch.lengths, places - 1)
        assert logits.dtype == torch.bfloat16
        nats = -logits.double().log_softmax(-1)[torch.arange(len(places)), batch.ids[places]]
        expected = float((nats * batch.weights[places]).sum())
        found = compute_loss(short, batch)
        assert float(found.nats) == pytest.approx(expected, rel=1e-6)
        assert found.role_turn_sums.dtype == torch.float32
        assert float(found.role_turn_sums[0].sum()) == pytest.approx(float(nats.sum()), rel=1e-6)
