"""The training loop: the arithmetic of a step, and what happens when."""

import contextlib
import copy
import re

import pytest
import torch
from helpers.batches import ALL_TURNS, LENGTHS, batch_of

from dialog_trainer.model.loading import build_from_scratch
from dialog_trainer.model.loss import PackedLoss
from dialog_trainer.model.packed_forward import use_packed_attention
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.loop import Learner, LoopSettings, TrainingState, train, train_step
from dialog_trainer.types import NUM_TURN_BINS, Role


def learner_of(model, optimizer, *, loss=PackedLoss, scaler=None):
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    return Learner(loss(model), optimizer, scaler, contextlib.nullcontext)


def step_with(model, optimizer, batches, max_grad_norm=None, **parts):
    learner = learner_of(model, optimizer, **parts)
    return train_step(learner, batches, step=3, lr=0.1, max_grad_norm=max_grad_norm)


def copies(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("parts", [[(9, 3), (14, 6)], [(9,), (3,), (14,), (6,)], [(9, 3, 14), (6,)]])
@pytest.mark.parametrize("weights", [ALL_TURNS, {Role.ASSISTANT: 1.0}, {Role.USER: 0.25, Role.ASSISTANT: 1.0}])
@pytest.mark.parametrize("divisor", [None, sum])
def test_micro_batches_add_up_to_the_global_batch(tiny_model, parts, weights, divisor):
    """`sum`: the divisor is the number of tokens."""
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    before = copies(tiny_model)
    expected_report = step_with(tiny_model, optimizer, [batch_of(LENGTHS, weights, divisor)])
    expected = {name: parameter.grad.clone() for name, parameter in tiny_model.named_parameters()}
    tiny_model.load_state_dict(before, strict=False)
    report = step_with(tiny_model, optimizer, [batch_of(part, weights, divisor) for part in parts])
    assert report.loss == pytest.approx(expected_report.loss, rel=1e-6)
    assert report.grad_norm == pytest.approx(expected_report.grad_norm, rel=1e-5)
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(report.role_turn_sums, expected_report.role_turn_sums, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("weights", "weigh"), [(ALL_TURNS, 1.0), ({Role.USER: 0.25, Role.ASSISTANT: 0.25}, 0.25)])
def test_loss_is_weighted_nats_over_divisors(tiny_model, weights, weigh):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.0)
    parts = [batch_of((9, 3), weights, lambda lengths: 5.0), batch_of((14, 6), weights, lambda lengths: 11.0)]
    report = step_with(tiny_model, optimizer, parts)
    nats, tokens = report.role_turn_sums.sum((1, 2)).tolist()
    assert tokens == 28
    assert report.loss == pytest.approx(weigh * nats / 16.0, rel=1e-6)
    assert report.role_turn_sums.dtype == torch.float64
    assert not report.role_turn_sums.requires_grad
    norm = torch.cat([parameter.grad.flatten() for parameter in tiny_model.parameters()]).norm()
    assert report.grad_norm == pytest.approx(float(norm), rel=1e-6)


class Steep(PackedLoss):
    """Its gradients, times a scale near the largest float32, are infinite."""

    def forward(self, batch):
        nats, role_turn_sums = super().forward(batch)
        return 1e3 * nats, role_turn_sums


def test_skipped_fp16_update_changes_nothing(tiny_model):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    before = copies(tiny_model)
    reports = [step_with(tiny_model, optimizer, [batch_of(LENGTHS)], 1.0, loss=Steep, scaler=scaler) for _ in range(2)]
    assert [report.grad_norm for report in reports] == [None, None]
    assert all(report.loss > 0 for report in reports)
    assert scaler.get_scale() == pytest.approx(3e38 / 4)
    for name, parameter in tiny_model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_report_counts_tokens(tiny_model):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    report = step_with(tiny_model, optimizer, [batch_of(LENGTHS, {Role.ASSISTANT: 1.0})])
    # Odd positions are the assistant's: 4 of 9, 1 of 3, 7 of 14, 3 of 6.
    assert (report.step, report.lr, report.tokens, report.trained_tokens()) == (3, 0.1, 32, 15)
    assert [report.trained_tokens(role) for role in (Role.USER, Role.ASSISTANT)] == [0, 15]
    assert report.seconds > 0


def test_report_counts_trained_tokens_by_role_and_turn(tiny_model):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    weights = {Role.USER: 0.125, Role.ASSISTANT: 1.0}
    report = step_with(tiny_model, optimizer, [batch_of((9, 3), weights), batch_of((14, 6), weights)])
    expected = torch.zeros(len(Role), NUM_TURN_BINS)
    for length in LENGTHS:
        for turn in range(1, length):
            expected[Role.ASSISTANT if turn % 2 else Role.USER, min(turn, NUM_TURN_BINS - 1)] += 1
    assert report.role_turn_sums[1].tolist() == expected.tolist()
    assert torch.equal(report.role_turn_sums[0] > 0, expected > 0)
    assert [report.trained_tokens(role) for role in Role] == [0, 13, 15, 0, 0]
    assert report.trained_tokens() == 28
    assert all(type(report.trained_tokens(role)) is int for role in (None, Role.USER))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_non_finite_loss_changes_nothing(tiny_model, poison):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=0.1)
    step_with(tiny_model, optimizer, [batch_of(LENGTHS)])
    with torch.no_grad():
        tiny_model.transformer.ln_f.weight[0] = poison
    before = copies(tiny_model)
    kept = [{slot: value.clone() for slot, value in slots.items()} for slots in optimizer.state.values()]
    report = step_with(tiny_model, optimizer, [batch_of(LENGTHS)])
    assert re.match(r"step 3: .*not finite; nothing was updated", report.problem)
    assert (report.loss, report.trained_tokens()) == (None, 0)
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0, equal_nan=True)
    for expected, slots in zip(kept, optimizer.state.values(), strict=True):
        assert set(slots) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(slots[slot], value) for slot, value in expected.items())


def test_clipping_bounds_the_update(tiny_model):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    before = copies(tiny_model)
    report = step_with(tiny_model, optimizer, [batch_of(LENGTHS)], max_grad_norm=0.01)
    moved = torch.stack([(parameter - before[name]).norm() for name, parameter in tiny_model.named_parameters()]).norm()
    assert report.grad_norm > 0.01
    assert float(moved.detach()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_batch_without_weight_changes_nothing(tiny_model):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=0.1)
    step_with(tiny_model, optimizer, [batch_of(LENGTHS)])  # moments that would move the weights
    before = copies(tiny_model)
    report = step_with(tiny_model, optimizer, [batch_of(LENGTHS, {})])
    assert report.loss is None
    assert report.trained_tokens() == 0
    assert all(torch.equal(parameter, before[name]) for name, parameter in tiny_model.named_parameters())


def test_empty_shard_changes_nothing(tiny_model):
    """The shard of a rank, when a batch has fewer sequences than ranks."""
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=0.1)
    before = copies(tiny_model)
    report = step_with(tiny_model, optimizer, [])
    assert (report.loss, report.tokens, report.grad_norm, report.trained_tokens()) == (None, 0, 0.0, 0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in tiny_model.named_parameters())


class Hooks:
    """Hooks that note events as `b<step>` (before), `t<step>` (track), `v<step>`, `s<step>`."""

    def __init__(self, state, *, validate_at=(), save_at=(), stop_at=None, bad_at=(), cut_at=()):
        self.state, self.events = state, []
        self.validate_at, self.save_at, self.stop_at = validate_at, save_at, stop_at
        self.bad_at, self.cut_at = bad_at, cut_at

    def before_step(self, step):
        self.events.append(f"b{step}")

    def track(self, report):
        self.events.append(f"t{report.step}")

    def validation_due(self, step):
        return step in self.validate_at

    def validate(self):
        self.events.append(f"v{self.state.step}")
        if self.state.step not in self.cut_at:
            self.state.validated_step = self.state.step
            bad = self.state.step in self.bad_at
            self.state.best.bad_validations = self.state.best.bad_validations + 1 if bad else 0

    def before_update(self, step):
        assert self.events[-1:] != [f"t{step}"]  # after what is due at the step, before its update

    def save_due(self, step):
        return step in self.save_at

    def save(self):
        self.events.append(f"s{self.state.step}")

    def stop_requested(self):
        return self.stop_at is not None and self.state.step >= self.stop_at


@pytest.mark.parametrize(
    ("arguments", "events", "outcome"),
    [
        ({"steps": 2}, "b0 t0 b1 t1 b2 s2", "finished"),
        ({"steps": 3, "validate_at": (2, 3)}, "b0 t0 b1 t1 b2 v2 t2 b3 v3", "finished"),
        ({"steps": 3, "validate_at": (2,), "save_at": (1, 2, 3)}, "b0 t0 b1 s1 t1 b2 v2 t2 b3 s3", "finished"),
        ({"steps": 5, "stop_at": 2}, "b0 t0 b1 t1 b2 s2", "interrupted"),
        ({"steps": 5, "stop_at": 0}, "b0 s0", "interrupted"),
        ({"steps": 6, "validate_at": (1, 2, 3, 4), "bad_at": (2, 3, 4), "patience": 2}, "b0 t0 b1 v1 t1 b2 v2 t2 b3 v3", "stopped early"),
        ({"steps": 5, "stop_at": 2, "validate_at": (2,)}, "b0 t0 b1 t1 b2 v2", "interrupted"),
        ({"steps": 5, "stop_at": 2, "validate_at": (2,), "cut_at": (2,)}, "b0 t0 b1 t1 b2 v2 s2", "interrupted"),
        ({"steps": 2, "stop_at": 2}, "b0 t0 b1 t1 b2 s2", "interrupted"),
        ({"steps": 5, "stop_at": 3, "state": TrainingState(step=3)}, "b3", "interrupted"),
        ({"steps": 4, "state": TrainingState(step=2)}, "b2 t2 b3 t3 b4 s4", "finished"),
        ({"steps": 2, "validate_at": (2,), "state": TrainingState(step=2)}, "b2 v2", "finished"),
        ({"steps": 3, "validate_at": (2,), "state": TrainingState(step=2)}, "b2 v2 t2 b3 s3", "finished"),
        ({"steps": 3, "validate_at": (2,), "state": TrainingState(step=2, validated_step=2)}, "b2 t2 b3 s3", "finished"),
        ({"steps": 9, "state": TrainingState(step=2, best=BestTracker(bad_validations=3))}, "b2", "stopped early"),
    ],
)  # fmt: skip
def test_events_of_a_loop(tiny_model, arguments, events, outcome):
    arguments = {"state": TrainingState(), "patience": 3} | arguments
    state = copy.deepcopy(arguments.pop("state"))
    settings = LoopSettings(arguments.pop("steps"), 0, None, arguments.pop("patience"))
    hooks = Hooks(state, **arguments)
    learner = learner_of(tiny_model, torch.optim.SGD(tiny_model.parameters(), lr=0.1))
    found = train(
        state, learner, settings, hooks, batches=lambda step: [batch_of((3, 6))], learning_rate=lambda step: 0.0
    )
    assert (" ".join(hooks.events), found) == (events, outcome)


def train_two_steps(model, hooks=None, batches=lambda step: [batch_of((3, 6)), batch_of((9,))]) -> TrainingState:
    """Steps 5 and 6; `hooks` replaces hooks by name."""
    state = TrainingState(step=5)
    events = Hooks(state)
    for name, hook in (hooks or {}).items():
        setattr(events, name, hook)
    learner = learner_of(model, torch.optim.SGD(model.parameters(), lr=0.1))
    train(state, learner, LoopSettings(7, 4, None, 1), events, batches=batches, learning_rate=lambda step: 0.1)
    return state


def test_step_is_seeded_by_its_number(tokenizer):
    """Hooks may draw random numbers and leave the model in evaluation mode."""
    weights = []
    for drawn_before, drawn_at_step, training in ((0, 0, True), (17, 0, True), (0, 5, False)):
        model = build_from_scratch(tokenizer, layers=1, heads=2, width=16, positions=64, dropout=0.3, seed=1)
        use_packed_attention(model)
        torch.rand(drawn_before)

        def look(step, model=model, count=drawn_at_step, training=training):
            torch.rand(count)
            model.train(training)

        train_two_steps(model, {"before_step": look})
        weights.append(copies(model))
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in weights[0])


def test_hooks_see_the_weights_of_their_step(tiny_model):
    seen = []
    norm = tiny_model.transformer.ln_f.weight
    before = norm.detach().clone()
    hooks = {
        "before_step": lambda step: seen.append((step, norm.detach().clone())),
        "track": lambda report: seen.append((f"after {report.step}", norm.detach().clone())),
    }
    train_two_steps(tiny_model, hooks)
    assert [step for step, _ in seen] == [5, "after 5", 6, "after 6", 7]
    assert torch.equal(seen[0][1], before)
    assert torch.equal(seen[1][1], seen[2][1])
    assert torch.equal(seen[3][1], seen[4][1])
    assert not torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[2][1], seen[3][1])


def test_seen_tokens_add_up_by_role(tiny_model):
    weights = [{Role.USER: 0.5, Role.ASSISTANT: 1.0}, {Role.ASSISTANT: 1.0}]
    sequences = [(9, 3), (14,)]
    state = train_two_steps(tiny_model, batches=lambda step: [batch_of(sequences[step - 5], weights[step - 5])])
    # Of 9, 3 and 14 tokens, the assistant has 4, 1 and 7, the user 4, 1 and (in step 6, without weight) 6.
    assert (state.tokens_seen, state.assistant_tokens_seen, state.user_tokens_seen) == (26, 12, 5)
    assert state.step == 7
