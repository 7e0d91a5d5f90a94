"""Progress of training and validation: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dialog_trainer.training.loop import StepReport

PLAIN_EVERY_SECONDS = 10.0
# A stage that takes this long says how far it is, then at the interval above.
FIRST_LINE_SECONDS = 2.0


class RunProgress:
    """Shows training steps and the stages of validations: a `Progress` of evaluation/. Use as a context manager.

    `stop_requested` is what the method of this name returns.
    """

    def __init__(self, console: Console, *, start: int, steps: int, stop_requested: Callable[[], bool] = lambda: False):
        self._stop_requested = stop_requested
        self._console = console
        self._live = console.is_terminal
        self._steps = steps
        self._first_step = start
        self._first_time = self._last_line = time.monotonic()
        self._tokens = 0
        self._spent_aside = 0.0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._training = self._bars.add_task("train", total=steps, completed=start, values="", visible=start < steps)
        self._stage = self._bars.add_task("", total=None, visible=False, values="")

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def step(self, report: StepReport) -> None:
        self._bars.update(self._stage, visible=False)
        self._tokens += report.tokens
        done = report.step + 1
        now = time.monotonic()
        seconds = max(1e-9, now - self._first_time - self._spent_aside)
        loss = "-" if report.loss is None else f"{report.loss:.4f}"
        values = f"loss {loss}  lr {report.lr:.2e}  {self._tokens / seconds:,.0f} tokens/s"
        self._bars.update(self._training, completed=done, values=values)
        first_or_last = done in (self._first_step + 1, self._steps)
        if not self._live and (first_or_last or now - self._last_line >= PLAIN_EVERY_SECONDS):
            self._last_line = now
            left = (self._steps - done) * seconds / (done - self._first_step)
            self._console.print(
                f"step {done:,}/{self._steps:,}  {values}  {_clock(left)} left", highlight=False, soft_wrap=True
            )

    def start(self, name: str, total: int) -> None:
        """Opens a stage of a validation; `advance` counts within it."""
        self._stage_name, self._stage_total, self._stage_done = name, total, 0
        self._stage_time = self._stage_last = time.monotonic()
        self._stage_next_line = self._stage_time + FIRST_LINE_SECONDS
        self._bars.reset(self._stage, total=total, description=name, visible=True, values="")

    def advance(self, count: int) -> None:
        self._stage_done += count
        now = time.monotonic()
        self._spent_aside += now - self._stage_last
        self._stage_last = now
        self._bars.update(self._stage, completed=self._stage_done)
        if not self._live and now >= self._stage_next_line:
            self._stage_next_line = now + PLAIN_EVERY_SECONDS
            done, total = self._stage_done, self._stage_total
            left = (total - done) * (now - self._stage_time) / max(1, done)
            self._console.print(
                f"  {self._stage_name} {done:,}/{total:,}  {_clock(left)} left", highlight=False, soft_wrap=True
            )

    def stop_requested(self) -> bool:
        return self._stop_requested()

    def close_stages(self) -> None:
        self._bars.update(self._stage, visible=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
