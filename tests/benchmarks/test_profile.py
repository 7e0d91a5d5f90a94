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


def row_of(size, precision, *names):
    speed = {"tokens_per_second": 3.0, "lowest": 2.0, "highest": 5.0, "peak_bytes": 1e9, "ours_is_faster": 1.5}
    return {
        "size": size, "max_len": 128, "dropout": 0.1, "precision": precision, "lora": False,
        "contenders": [{"name": name, **speed} for name in names],
    }  # fmt: skip


def test_of_two_sittings_that_measured_the_same_the_later_one_counts(benchmarks):
    from peers import job, page

    small, large, in_bf16 = row_of("0.7M", "fp32"), row_of("10M", "fp32"), row_of("10M", "bf16")
    first = {"date": "first", "steps": [small, large, in_bf16]}
    second = {"date": "second", "steps": [dict(large)]}
    found = page._latest([first, second, {"date": "third"}], "steps", job.title_of)
    assert found == [(first, [small, in_bf16]), (second, [large])]


def test_figures_have_a_panel_for_each_size_and_precision(benchmarks, tmp_path, monkeypatch):
    from peers import figures

    drawn = []
    monkeypatch.setattr(figures, "render_figure", lambda figure: drawn.append(figure) or b"png")
    steps = [
        row_of("0.7M", "fp32", "ours", "hf", "hf-best"),
        row_of("0.7M", "bf16", "ours"),
        row_of("10M", "fp32", "ours"),
    ]
    figures.draw_rates(steps, tmp_path / "rates.png")
    assert [axis.get_title() for axis in drawn[0].axes if axis.axison] == [
        "0.7M, max_len 128, dropout 0.1, fp32", "0.7M, max_len 128, dropout 0.1, bf16", "10M, max_len 128, dropout 0.1, fp32",
    ]  # fmt: skip
    assert len({axis.get_xlim() for axis in drawn[0].axes[:2]}) == 1
    assert figures.draw_ratios(steps, tmp_path / "ratios.png")
    assert [text.get_text() for text in drawn[1].axes[0].texts] == [" 1.50x fp32"]
    assert not figures.draw_ratios(steps[1:], tmp_path / "none.png")
