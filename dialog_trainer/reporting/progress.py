"""Progress of training and validation: live bars on a terminal, plain lines elsewhere, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

from dialog_trainer.amounts import format_clock, format_duration
from dialog_trainer.reporting.terminal import RunConsole, print_line
from dialog_trainer.training.loop import StepReport

PLAIN_EVERY_SECONDS = 10.0
# A stage that takes this long says how far it is, then at the interval above.
FIRST_LINE_SECONDS = 2.0
# Steps of this process after which their time is known well enough to name the hours left.
MEASURED_STEPS = 20
LONG_RUN_SECONDS = 6 * 3600.0
WIDE_COLUMNS, WIDE_BAR, NARROW_BAR = 100, 24, 10
GAP = "  "


class RunProgress:
    """Shows training steps and the stages of validations: a `Progress` of evaluation/. Use as a context manager.

    `stop_requested` is what the method of this name returns.
    """

    def __init__(
        self, console: RunConsole, *, start: int, steps: int, stop_requested: Callable[[], bool] = lambda: False
    ):
        self._stop_requested = stop_requested
        self._console = console
        self._live = console.is_terminal and not console.quiet
        self._steps = steps
        self._first_step = start
        self._first_time = self._last_line = time.monotonic()
        self._tokens = 0
        self._stage_seconds = 0.0
        bar_width = WIDE_BAR if console.width >= WIDE_COLUMNS else NARROW_BAR
        columns = (BarColumn(bar_width=bar_width), _FittedText(console, bar_width + 2))
        self._bars = Progress(*columns, console=console, disable=not self._live)
        self._training = self._bars.add_task("", total=steps, completed=start, parts=(), visible=start < steps)
        self._stage = self._bars.add_task("", total=None, visible=False, parts=())

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def step(self, report: StepReport) -> None:
        """Takes in a finished training step. After `MEASURED_STEPS` of them it prints the time left."""
        self._bars.update(self._stage, visible=False)
        self._tokens += report.tokens
        done = report.step + 1
        now = time.monotonic()
        seconds = max(1e-9, now - self._first_time - self._stage_seconds)
        per_step = seconds / (done - self._first_step)
        left = self._steps - done
        counted = f"step {done:,}/{self._steps:,}"
        loss = f"loss {'-' if report.loss is None else format(report.loss, '.4f')}"
        rate, speed = f"lr {report.lr:.2e}", f"{self._tokens / seconds:,.0f} tokens/s"
        remaining = f"{format_clock(left * per_step)} left"
        self._bars.update(self._training, completed=done, parts=(counted, remaining, loss, speed, rate))
        first_or_last = done in (self._first_step + 1, self._steps)
        if first_or_last or now - self._last_line >= PLAIN_EVERY_SECONDS:
            self._last_line = now
            self._print_plain(GAP.join((counted, loss, rate, speed, remaining)))
        if done - self._first_step == MEASURED_STEPS and (line := describe_time_left(left, per_step)):
            print_line(self._console, line)

    def start(self, name: str, total: int) -> None:
        """Opens a stage of a validation; `advance` counts within it."""
        self._stage_name, self._stage_total, self._stage_done = name, total, 0
        self._stage_time = self._stage_last = time.monotonic()
        self._stage_next_line = self._stage_time + FIRST_LINE_SECONDS
        self._bars.reset(self._stage, total=total, visible=True, parts=(f"{name} 0/{total:,}",))

    def advance(self, count: int) -> None:
        self._stage_done += count
        now = time.monotonic()
        self._stage_seconds += now - self._stage_last
        self._stage_last = now
        done, total = self._stage_done, self._stage_total
        left = (total - done) * (now - self._stage_time) / max(1, done)
        parts = (f"{self._stage_name} {done:,}/{total:,}", f"{format_clock(left)} left")
        self._bars.update(self._stage, completed=done, parts=parts)
        if now >= self._stage_next_line:
            self._stage_next_line = now + PLAIN_EVERY_SECONDS
            self._print_plain(GAP + GAP.join(parts))

    def stop_requested(self) -> bool:
        return self._stop_requested()

    def close_stages(self) -> None:
        self._bars.update(self._stage, visible=False)

    def _print_plain(self, line: str) -> None:
        """What the bars show, for the log, and for a screen without bars."""
        if self._live:
            self._console.keep_line(line)
        else:
            print_line(self._console, line)


def describe_time_left(steps: int, seconds_per_step: float) -> str | None:
    """One line on the time that `steps` steps take, None below a minute; for a long run with a smaller choice."""
    seconds = steps * seconds_per_step
    if seconds < 60:
        return None
    line = (
        f"about {format_duration(seconds)} left: {steps:,} steps of {seconds_per_step:.3g} s, validations not included"
    )
    if seconds <= LONG_RUN_SECONDS:
        return line
    fitting = int(LONG_RUN_SECONDS / seconds_per_step)
    return f"{line}. For a shorter run: {_steps_hint(fitting)}model=gpt2_tiny or a smaller model.max_len"


def fit_parts(parts: Sequence[str], width: int) -> str:
    """The first of `parts`, as many as fit into `width`, and the first in any case."""
    line = parts[0] if parts else ""
    for part in parts[1:]:
        if len(line) + len(GAP) + len(part) > width:
            break
        line += GAP + part
    return line


class _FittedText(ProgressColumn):
    """The field `parts` of a task, complete parts only, in what the `taken` columns leave of the terminal."""

    def __init__(self, console: RunConsole, taken: int):
        super().__init__()
        self._console, self._taken = console, taken

    def render(self, task: Task) -> Text:
        return Text(fit_parts(task.fields["parts"], self._console.width - self._taken), no_wrap=True)


def _steps_hint(steps: int) -> str:
    """`steps` rounded down to two digits, as an option."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return f"steps={steps // unit * unit}, " if steps else ""
