"""Progress: bars on a terminal, plain lines elsewhere, and the time left."""

import io
import re

import pytest

from dialog_trainer.amounts import format_clock
from dialog_trainer.reporting import progress
from dialog_trainer.reporting.progress import RunProgress, describe_time_left, fit_parts
from dialog_trainer.reporting.terminal import RunConsole
from dialog_trainer.training.loop import StepReport


class Clock:
    """A clock set by the test."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def report(step: int, **changes) -> StepReport:
    values = {"loss": 3.25, "lr": 1e-4, "grad_norm": 1.0, "tokens": 500, "role_turn_sums": None, "seconds": 1.0}
    return StepReport(step, **(values | changes))


def plain(*, start: int, steps: int) -> tuple[RunProgress, io.StringIO]:
    out = io.StringIO()
    return RunProgress(RunConsole(file=out), start=start, steps=steps), out


def test_a_plain_line_says_step_loss_rate_speed_and_time_left(clock):
    shown, out = plain(start=0, steps=101)
    clock.now += 2
    shown.step(report(0))
    assert out.getvalue() == "step 1/101  loss 3.2500  lr 1.00e-04  250 tokens/s  3:20 left\n"


def test_lines_come_for_the_first_and_last_step_and_every_ten_seconds_between(clock):
    shown, out = plain(start=0, steps=30)
    for step in range(30):
        clock.now += 1
        shown.step(report(step))
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/30", "11/30", "21/30", "30/30"]
    assert lines[-1].endswith("500 tokens/s  0:00 left")


def test_a_resumed_run_counts_speed_and_time_from_its_own_start(clock):
    shown, out = plain(start=90, steps=100)
    clock.now += 4
    shown.step(report(90))
    assert out.getvalue() == "step 91/100  loss 3.2500  lr 1.00e-04  125 tokens/s  0:36 left\n"


def test_time_spent_in_a_validation_does_not_slow_the_training_down(clock):
    shown, out = plain(start=0, steps=3)
    clock.now += 1
    shown.step(report(0))
    shown.start("loss", 2)
    for _ in range(2):
        clock.now += 50
        shown.advance(1)
    clock.now += 1
    shown.step(report(1))
    assert [line.split("  ", 3)[3] for line in out.getvalue().splitlines() if line.startswith("step")] == [
        "500 tokens/s  0:02 left",
        "500 tokens/s  0:01 left",
    ]


def test_a_stage_says_how_far_it_is_after_two_seconds_and_every_ten(clock):
    shown, out = plain(start=0, steps=3)
    shown.start("replies", 2_000)
    for _ in range(9):
        clock.now += 1.5
        shown.advance(100)
    assert out.getvalue() == "  replies 200/2,000  0:27 left\n  replies 900/2,000  0:16 left\n"


def test_a_stop_request_is_passed_on():
    assert plain(start=0, steps=3)[0].stop_requested() is False
    assert RunProgress(RunConsole(), start=0, steps=3, stop_requested=lambda: True).stop_requested() is True


def test_a_step_without_loss_shows_none(clock):
    shown, out = plain(start=0, steps=2)
    clock.now += 1
    shown.step(report(0, loss=None))
    assert "  loss -  " in out.getvalue()


def test_a_line_is_one_line_however_long(clock):
    shown, out = plain(start=0, steps=1_000_000_000)
    clock.now += 1
    shown.step(report(0, loss=12345.678, tokens=1_000_000_000))
    assert out.getvalue().count("\n") == 1
    assert len(out.getvalue()) > 80


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (3600, "1:00:00")]
)
def test_time_is_shown_as_on_a_clock(seconds, shown):
    assert format_clock(seconds) == shown


@pytest.mark.parametrize(
    ("width", "training", "stage"),
    [
        (60, "step 29,999/30,000  0:02 left  loss 3.2500", "dialogues replied to 3/7  0:27 left"),
        (80, "step 29,999/30,000  0:02 left  loss 3.2500  250 tokens/s", "dialogues replied to 3/7  0:27 left"),
        (140, "step 29,999/30,000  0:02 left  loss 3.2500  250 tokens/s  lr 1.00e-04",
         "dialogues replied to 3/7  0:27 left"),
    ],
)  # fmt: skip
def test_bars_are_complete_at_any_width(clock, width, training, stage):
    out = io.StringIO()
    console = RunConsole(file=out, force_terminal=True, width=width, color_system=None, _environ={})
    log = io.StringIO()
    log.close = lambda: None
    with console.log_to(log), RunProgress(console, start=29_997, steps=30_000) as shown:
        for step in (29_997, 29_998):
            clock.now += 2
            shown.step(report(step))
        shown.start("dialogues replied to", 7)
        clock.now += 20
        shown.advance(3)
        shown._bars.refresh()
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n").splitlines()
    lines = [line.rstrip() for line in lines]
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line.endswith(training)]
    assert [line for line in lines if line.endswith(stage)]
    assert not [line for line in lines if "…" in line or line.startswith("step")]
    # The log has plain lines, at their intervals.
    assert log.getvalue().rstrip("\n") == (
        "step 29,998/30,000  loss 3.2500  lr 1.00e-04  250 tokens/s  0:04 left\n  dialogues replied to 3/7  0:27 left"
    )


@pytest.mark.parametrize(
    ("steps", "seconds", "line"),
    [
        (100, 0.5, None),
        (1_000, 0.5, "about 8.3 min left: 1,000 steps of 0.5 s, validations not included"),
        (20_000, 1.0, "about 5.6 h left: 20,000 steps of 1 s, validations not included"),
        (29_980, 1.234, "about 10.3 h left: 29,980 steps of 1.23 s, validations not included. For a shorter run: "
         "steps=17000, model=gpt2_tiny or a smaller model.max_len"),
        (2, 30_000.0, "about 16.7 h left: 2 steps of 3e+04 s, validations not included. For a shorter run: "
         "model=gpt2_tiny or a smaller model.max_len"),
    ],
)  # fmt: skip
def test_the_time_left_names_hours_and_for_a_long_run_a_smaller_choice(steps, seconds, line):
    assert describe_time_left(steps, seconds) == line


def test_a_run_prints_the_time_left_once_after_20_of_its_own_steps(clock):
    shown, out = plain(start=5, steps=10_000)
    for step in range(5, 65):
        clock.now += 1
        shown.step(report(step))
    lines = out.getvalue().splitlines()
    (place,) = [index for index, line in enumerate(lines) if line.startswith("about")]
    assert lines[place] == "about 2.8 h left: 9,975 steps of 1 s, validations not included"
    assert lines[place - 1].startswith("step 16/")
    assert lines[place + 1].startswith("step 26/")


@pytest.mark.parametrize(("width", "line"), [(0, "abc"), (7, "abc"), (8, "abc  def"), (9, "abc  def")])
def test_parts_are_dropped_from_the_end(width, line):
    assert fit_parts(["abc", "def", "g"], width) == line
