import contextlib

import numpy as np
import pytest
import torch

from dialog_trainer.data.batches import pack
from dialog_trainer.errors import TrainingError
from dialog_trainer.model import causal_lm
from dialog_trainer.model.packed import use_packed_attention
from dialog_trainer.records import Role
from dialog_trainer.training.early_stopping import Best
from dialog_trainer.training.loop import TrainingState, train, train_step

ALL_TURNS = {Role.USER: 1.0, Role.ASSISTANT: 1.0, Role.END: 1.0}
LENGTHS = (9, 3, 14, 6)


def batch_of(lengths, weights=ALL_TURNS, seed=0):
    """Sequences of random ids and alternating roles; the same for the same arguments."""
    draw = np.random.default_rng(seed)
    parts = [draw.integers(0, 300, length) for length in LENGTHS]
    chosen = [parts[LENGTHS.index(length)] for length in lengths]
    roles = [np.arange(length) % 2 + 1 for length in lengths]
    return pack(np.concatenate(chosen), np.concatenate(roles), np.array(lengths), weights)


def step_with(model, optimizer, batches, max_grad_norm=None):
    return train_step(
        model, optimizer, batches, step=3, lr=0.1, max_grad_norm=max_grad_norm, autocast=contextlib.nullcontext
    )


def copies(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("parts", [[(9, 3), (14, 6)], [(9,), (3,), (14,), (6,)], [(9, 3, 14), (6,)]])
@pytest.mark.parametrize("weights", [ALL_TURNS, {Role.ASSISTANT: 1.0}, {Role.USER: 0.25, Role.ASSISTANT: 1.0}])
def test_micro_batches_give_the_gradient_of_the_whole_batch(tiny_model, parts, weights):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    before = copies(tiny_model)
    whole = step_with(tiny_model, optimizer, [batch_of(LENGTHS, weights)])
    expected = {name: parameter.grad.clone() for name, parameter in tiny_model.named_parameters()}
    tiny_model.load_state_dict(before, strict=False)
    split = step_with(tiny_model, optimizer, [batch_of(part, weights) for part in parts])
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_report_counts_tokens_and_weights(tiny_model):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    report = step_with(tiny_model, optimizer, [batch_of(LENGTHS, {Role.ASSISTANT: 1.0})])
    # Odd positions are the assistant's: 4 of 9, 1 of 3, 7 of 14, 3 of 6.
    assert (report.step, report.lr, report.tokens, report.trained_tokens) == (3, 0.1, 32, 15)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_changes_nothing(tiny_model, poison):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=0.1)
    step_with(tiny_model, optimizer, [batch_of(LENGTHS)])
    with torch.no_grad():
        tiny_model.transformer.ln_f.weight[0] = poison
    before = copies(tiny_model)
    kept = [{slot: value.clone() for slot, value in slots.items()} for slots in optimizer.state.values()]
    with pytest.raises(TrainingError, match=r"step 3: .*not finite; nothing was updated.*mode=resume"):
        step_with(tiny_model, optimizer, [batch_of(LENGTHS)])
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0, equal_nan=True)
    for expected, slots in zip(kept, optimizer.state.values(), strict=True):
        assert set(slots) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(slots[slot], value) for slot, value in expected.items())


def test_clipping_bounds_the_update_and_reports_the_norm_before_it(tiny_model):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    before = copies(tiny_model)
    report = step_with(tiny_model, optimizer, [batch_of(LENGTHS)], max_grad_norm=0.01)
    moved = torch.stack([(parameter - before[name]).norm() for name, parameter in tiny_model.named_parameters()]).norm()
    assert report.grad_norm > 0.01
    assert float(moved.detach()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_batch_without_weight_changes_nothing(tiny_model):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=0.1)
    step_with(tiny_model, optimizer, [batch_of(LENGTHS)])  # moments that would move the weights
    before = copies(tiny_model)
    report = step_with(tiny_model, optimizer, [batch_of(LENGTHS, {})])
    assert report.loss is None
    assert report.trained_tokens == 0
    assert all(torch.equal(parameter, before[name]) for name, parameter in tiny_model.named_parameters())


def run_loop(
    tiny_model, *, steps=6, validate_at=(), save_at=(), stop_at=None, state=None, patience=3, bad_at=(), cut_at=()
):
    """The events of a run of the loop, as `t<step>`, `v<step>`, `s<step>`, and how it ended."""
    state = state or TrainingState()
    events = []

    def validate():
        events.append(f"v{state.step}")
        if state.step in cut_at:
            return
        state.validated_step = state.step
        state.best.bad_validations = state.best.bad_validations + 1 if state.step in bad_at else 0

    outcome = train(
        state, tiny_model, torch.optim.SGD(tiny_model.parameters(), lr=0.1), steps=steps, seed=0, rank=0,
        batches=lambda step: [batch_of((3, 6))], learning_rate=lambda step: 0.0, max_grad_norm=None,
        autocast=contextlib.nullcontext, track=lambda report: events.append(f"t{report.step}"),
        validation_due=lambda step: step in validate_at, validate=validate, save_due=lambda step: step in save_at,
        save=lambda: events.append(f"s{state.step}"), patience=patience,
        stopped=lambda: stop_at is not None and state.step >= stop_at,
    )  # fmt: skip
    return " ".join(events), outcome


@pytest.mark.parametrize(
    ("arguments", "events", "outcome"),
    [
        ({"steps": 2}, "t0 t1 s2", "finished"),
        ({"steps": 3, "validate_at": (2, 3)}, "t0 t1 v2 t2 v3", "finished"),
        ({"steps": 3, "validate_at": (2,), "save_at": (1, 2, 3)}, "t0 s1 t1 v2 t2 s3", "finished"),
        ({"steps": 5, "stop_at": 2}, "t0 t1 s2", "interrupted"),
        ({"steps": 5, "stop_at": 0}, "s0", "interrupted"),
        ({"steps": 6, "validate_at": (1, 2, 3, 4), "bad_at": (2, 3, 4), "patience": 2}, "t0 v1 t1 v2 t2 v3", "stopped early"),
        ({"steps": 5, "stop_at": 2, "validate_at": (2,)}, "t0 t1 v2", "interrupted"),
        ({"steps": 5, "stop_at": 2, "validate_at": (2,), "cut_at": (2,)}, "t0 t1 v2 s2", "interrupted"),
        ({"steps": 2, "stop_at": 2}, "t0 t1 s2", "interrupted"),
        ({"steps": 5, "stop_at": 3, "state": TrainingState(step=3)}, "", "interrupted"),
        ({"steps": 4, "state": TrainingState(step=2)}, "t2 t3 s4", "finished"),
        ({"steps": 2, "validate_at": (2,), "state": TrainingState(step=2)}, "v2", "finished"),
        ({"steps": 3, "validate_at": (2,), "state": TrainingState(step=2)}, "v2 t2 s3", "finished"),
        ({"steps": 3, "validate_at": (2,), "state": TrainingState(step=2, validated_step=2)}, "t2 s3", "finished"),
        ({"steps": 9, "state": TrainingState(step=2, best=Best(bad_validations=3))}, "", "stopped early"),
    ],
)  # fmt: skip
def test_what_happens_when(tiny_model, arguments, events, outcome):
    assert run_loop(tiny_model, **arguments) == (events, outcome)


def test_a_step_depends_on_its_number_and_not_on_what_was_drawn_before(vocabulary):
    weights = []
    for drawn_before in (0, 17):
        model = causal_lm.from_scratch(vocabulary, layers=1, heads=2, width=16, positions=64, dropout=0.3, seed=1)
        use_packed_attention(model)
        torch.rand(drawn_before)
        state = TrainingState(step=5)
        train(
            state, model, torch.optim.SGD(model.parameters(), lr=0.1), steps=7, seed=4, rank=0,
            batches=lambda step: [batch_of((3, 6))], learning_rate=lambda step: 0.1, max_grad_norm=None,
            autocast=contextlib.nullcontext, track=lambda report: None, validation_due=lambda step: False,
            validate=lambda: None, save_due=lambda step: False, save=lambda: None, patience=1, stopped=lambda: False,
        )  # fmt: skip
        weights.append(copies(model))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
