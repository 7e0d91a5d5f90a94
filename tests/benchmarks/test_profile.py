"""What the benchmarks make of what they measured."""

from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_parts_of_a_step_add_up_to_it_and_a_backward_pass_goes_with_its_forward_pass(benchmarks):
    import step_time

    x, weight = torch.randn(300, 300, requires_grad=True), torch.randn(300, 300, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as looking, record_function(step_time.STEP):
        with record_function(step_time.ACTIVATION):
            hidden = (x @ weight).pow(3)
        with record_function(step_time.CLIPPING):
            total = hidden.exp().sum()
        total.backward()
    events = looking.events()
    parts = step_time.parts_of(events)
    step = next(event for event in events if event.name == step_time.STEP)
    assert sum(parts.values()) == pytest.approx(step.cpu_time_total / 1e6)
    own = [event for event in events if step_time._within(event, step)]
    forward = {
        event.sequence_nr: event for event in own if event.sequence_nr >= 0 and not step_time._is_backward(event)
    }
    part_of = {event.name: step_time._part(event, forward) for event in own}
    assert part_of["MmBackward0"] == part_of["aten::mm"] == step_time.PRODUCTS
    assert part_of["PowBackward0"] == part_of["aten::pow"] == step_time.ACTIVATION
    assert part_of["ExpBackward0"] == part_of["SumBackward0"] == step_time.CLIPPING


def test_of_two_sittings_that_measured_the_same_the_later_one_counts(benchmarks):
    from peers import page

    first = {"date": "first", "steps": [{"size": "0.7M"}, {"size": "10M"}]}
    second = {"date": "second", "steps": [{"size": "10M"}]}
    found = page._latest([first, second, {"date": "third"}], "steps", lambda row: row["size"])
    assert found == [(first, [{"size": "0.7M"}]), (second, [{"size": "10M"}])]
