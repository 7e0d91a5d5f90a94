"""The loss by role and by turn, and the three normalizers, against a slow reference: a token at a time, no packing."""

import contextlib
import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.dataset import TokenDataset, open_dialogues, open_tokens
from dialog_trainer.data.packing import pack_micro_batches
from dialog_trainer.evaluation.losses import measure_held_out_losses, nll_by_role, nll_by_turn
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights, constant, linear, step
from dialog_trainer.model.loss import PackedLoss
from dialog_trainer.model.packed_forward import padded_attention
from dialog_trainer.training.loop import Learner, train_step
from dialog_trainer.types import NUM_TURN_BINS, Role, Turn

pytestmark = pytest.mark.slow

MAX_LEN = 48
S, U, A = Role.SYSTEM, Role.USER, Role.ASSISTANT
NAMES = {"assistant": Role.ASSISTANT, "user": Role.USER, "end": Role.END}
# (role, text, weight of the data): system turns first and in the middle, turns weighed 0, more and less than 1, two
# turns of one role in a row, a dialogue of 14 turns, one too long for one sequence, one whose last turn is untrained.
DIALOGUES = [
    [(U, "my brother likes tea .", 1.0), (A, "the sea .", 1.0)],
    [(S, "be kind .", 1.0), (U, "a teacher", 2.5), (A, "Yes , good books .", 0.4), (U, "the old car", 1.0)],
    [(U, "I heard that the cat", 0.0), (A, "our garden", 1.0), (S, "now be brief .", 1.0), (A, "Yes .", 3.0)],
    [(U, "this song", 1.0), (U, "the cat needs a new hat .", 0.7), (A, "long walks", 1.0), (A, "the sea", 0.0)],
    [((U, A)[n % 2], ("tea", "the sea .", "a hat")[n % 3], 1.0 + n % 4) for n in range(14)],
    [(U, "the old car needs long walks . " * 4, 1.0), (A, "my brother never sees the sea . " * 6, 0.9)],
]  # fmt: skip


class Made:
    """A source of `DIALOGUES`; `weighed` says whether the data's weights are in it."""

    def __init__(self, weighed: bool):
        self.weighed = weighed

    def digest(self, split: str) -> str:
        return f"{split} {self.weighed}"

    def describe(self, split: str) -> str:
        return f"the {split} dialogues of this test"

    def dialogues(self, split: str):
        for number, turns in enumerate(DIALOGUES):
            yield str(number), [Turn(role, text, weight if self.weighed else 1.0) for role, text, weight in turns]


@pytest.fixture(scope="module")
def table_of(tokenizer, tmp_path_factory):
    cache = tmp_path_factory.mktemp("tables")

    def make(truncation: str = "split", weighed: bool = True) -> TokenDataset:
        dialogues = open_dialogues(Made(weighed), "train", cache, lambda line: None)
        return open_tokens(dialogues, tokenizer, max_len=MAX_LEN, truncation=truncation, workers=1, cache_dir=cache)

    return make


def slow_nll(model, table):
    """`(nll, role, turn, weight of the data, sequence)` of each token but the first of each sequence, in the graph."""
    found = []
    for number, row in enumerate(table.rows.table.to_pylist()):
        runs = zip(row["roles"], row["turns"], row["lengths"], row["weights"], strict=True)
        kinds = [(role, turn, weight) for role, turn, length, weight in runs for _ in range(length)]
        with padded_attention(model):
            logs = model(input_ids=torch.tensor([row["ids"]])).logits[0].log_softmax(-1)
        for t in range(1, len(row["ids"])):
            found.append((-logs[t - 1, row["ids"][t]], *kinds[t], number))
    return found


def slow_weights(tokens, of_role, normalize):
    """The weight of each of `slow_nll`'s tokens, and the divisor where it is not the number of tokens."""
    weights = [1.0 if role == Role.END else of_role.get(role, 0.0) * data for _, role, _, data, _ in tokens]
    if normalize == "turn":
        turns = [(turn, sequence) for _, _, turn, _, sequence in tokens]
        weights = [weight / turns.count(turn) for weight, turn in zip(weights, turns, strict=True)]
    return weights, sum(weights)


SCHEDULES = [
    (partial(step, train_user_turn_mask_step=0.5), 0.0, {U: 1, A: 1}),
    (partial(step, train_user_turn_mask_step=0.5), 0.5, {U: 0, A: 1}),
    (partial(constant, end_weight=0.3), 0.7, {U: 0.3, A: 1}),
    (partial(linear, start=0.2, end=0.6, start_weight=0.9, end_weight=0.1), 0.3, {U: 0.7, A: 1}),
    (lambda progress: RoleWeights(0.25, 0.45), 0.0, {U: 0.25, A: 0.45}),
]


@pytest.mark.parametrize("truncation", ["split", "keep_start"])
@pytest.mark.parametrize("normalize", ["token", "fixed", "turn"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_loss_and_gradient_equal_the_reference(tiny_model, table_of, schedule, normalize, truncation):
    table = table_of(truncation)
    function, progress, of_role = schedule
    mask = Mask(function, normalize=normalize)
    reference = copy.deepcopy(tiny_model)
    tokens = slow_nll(reference, table)
    weights, divisor = slow_weights(tokens, of_role, normalize)
    divisor = divisor if normalize != "fixed" else len(tokens) + len(table)
    loss = sum(weight * token[0] for weight, token in zip(weights, tokens, strict=True)) / divisor
    loss.backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    counted = [token for token, weight in zip(tokens, weights, strict=True) if weight > 0]

    weigh = partial(mask.weigh_tokens, role_weights=mask.weigh_roles(progress))
    for max_tokens in (1, 70, 10_000):
        model = copy.deepcopy(tiny_model)
        batches = list(pack_micro_batches(table, range(len(table)), weigh, max_tokens))
        assert len(batches) == {1: len(table), 10_000: 1}.get(max_tokens, len(batches))
        assert sum(batch.divisor for batch in batches) == pytest.approx(divisor, rel=1e-6)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        learner = Learner(PackedLoss(model), optimizer, scaler, contextlib.nullcontext)
        report = train_step(learner, batches, step=0, lr=0.1, max_grad_norm=None)
        assert report.loss == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in model.named_parameters():
            scale = float(expected[name].abs().max())
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-5 * scale)
        check_cells(report.role_turn_sums, counted)


def check_cells(role_turn_sums, tokens):
    """`cells` are the sums and numbers of the tokens of `slow_nll`, whatever their weights."""
    expected = torch.zeros(2, len(Role), NUM_TURN_BINS, dtype=torch.float64)
    for nll, role, turn, _, _ in tokens:
        expected[0, role, min(turn, NUM_TURN_BINS - 1)] += nll.item()
        expected[1, role, min(turn, NUM_TURN_BINS - 1)] += 1
    torch.testing.assert_close(role_turn_sums, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("max_tokens", [1, 70, 10_000])
def test_held_out_losses_are_those_of_every_turn_and_end_of_the_slow_reference(tiny_model, table_of, max_tokens):
    table = table_of()
    with torch.no_grad():
        tokens = [token for token in slow_nll(tiny_model, table) if token[1] in (U, A, Role.END)]
    role_turn_sums = measure_held_out_losses(tiny_model.train(), table, max_tokens=max_tokens).role_turn_sums
    check_cells(role_turn_sums, tokens)
    found = nll_by_role(role_turn_sums)
    for name, of in NAMES.items():
        own = [nll.item() for nll, kind, *_ in tokens if kind == of]
        assert found[f"{name}_nll"] == pytest.approx(sum(own) / len(own), rel=1e-5)
        assert found[f"{name}_tokens"] == len(own) > 0
    for turn in range(11):
        own = [nll.item() for nll, kind, index, *_ in tokens if index == turn and kind in (U, A)]
        assert nll_by_turn(role_turn_sums)[f"nll_turn_{turn:02d}"] == pytest.approx(sum(own) / len(own), rel=1e-5)


def test_held_out_losses_ignore_weights_in_the_data(tiny_model, table_of):
    weighed, plain = table_of(weighed=True), table_of(weighed=False)
    assert weighed.rows.column("weights") != plain.rows.column("weights")
    losses = [measure_held_out_losses(tiny_model, table, max_tokens=100).role_turn_sums for table in (weighed, plain)]
    assert torch.equal(*losses)


@st.composite
def counted_tokens(draw):
    """`(nll, role, turn)` of some trained tokens."""
    one = st.tuples(st.floats(0, 20, width=32), st.sampled_from([U, A, Role.END]), st.integers(0, 15))
    return draw(st.lists(one, max_size=40))


@settings(deadline=None, max_examples=150)
@given(counted_tokens())
def test_means_and_counts_are_those_of_a_list_of_tokens(tokens):
    role_turn_sums = torch.zeros(2, len(Role), NUM_TURN_BINS, dtype=torch.float64)
    for nll, role, turn in tokens:
        role_turn_sums[:, role, min(turn, NUM_TURN_BINS - 1)] += torch.tensor([nll, 1.0], dtype=torch.float64)

    def mean(values):
        return pytest.approx(math.fsum(values) / len(values)) if values else None

    expected = {f"{name}_nll": mean([nll for nll, r, _ in tokens if r == role]) for name, role in NAMES.items()}
    expected |= {f"{name}_tokens": sum(r == role for _, r, _ in tokens) for name, role in NAMES.items()}
    assert nll_by_role(role_turn_sums) == expected
    assert nll_by_turn(role_turn_sums) == {
        f"nll_turn_{turn:02d}": mean([nll for nll, r, t in tokens if t == turn and r in (U, A)]) for turn in range(11)
    }
    assert all(type(nll_by_role(role_turn_sums)[f"{name}_tokens"]) is int for name in NAMES)
