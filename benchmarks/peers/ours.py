"""This package through its command line: a whole run except its validation, which is never reached."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from peers.gate import Gate
from peers.job import Job

from dialog_trainer.cli import main as command_line
from dialog_trainer.cli.commands.callbacks import TrainingCallbacks
from dialog_trainer.training.loop import StepReport

# Steps of a run; more than the rounds need.
NEVER = 30_000


def run(overrides: list[str], before_step: Callable[[int], None], track: Callable[[StepReport], None]) -> int:
    """Runs in this process; the two functions are called after the hooks of the run. Returns the exit code."""
    own_before, own_track = TrainingCallbacks.before_step, TrainingCallbacks.track

    def both_before(self: TrainingCallbacks, step: int) -> None:
        own_before(self, step)
        before_step(step)

    def both_track(self: TrainingCallbacks, report: StepReport) -> None:
        own_track(self, report)
        track(report)

    with (
        patch.object(TrainingCallbacks, "before_step", both_before),
        patch.object(TrainingCallbacks, "track", both_track),
    ):
        return command_line.main(overrides)


def overrides_of(job: Job) -> list[str]:
    """Overrides of a job; of two for one option the later one, which is the contender's own, counts."""
    folder = Path(job.folder)
    found = [
        "model=gpt2", f"model.pretrained_model='{folder / 'model'}'", f"model.max_len={job.max_len}",
        f"model.dropout={job.dropout}", "data=jsonl", f"data.train_data_path='{folder / 'train.jsonl'}'",
        f"data.validation_data_path='{folder / 'validation.jsonl'}'", f"data.cache_dir='{folder / 'cache'}'",
        "data.truncation=keep_start", "train_user_turn_mask_step=0", "seed=0", f"batch_size={job.batch_size}",
        "optim=adamw", f"optim.lr0={job.lr}", f"optim.weight_decay={job.weight_decay}", "scheduler=constant",
        "scheduler.warmup_steps=0", f"max_grad_norm={job.max_grad_norm}", f"precision={job.precision}",
        f"steps={NEVER}", f"validate_every_n_steps={NEVER}", f"project='{folder / 'runs'}'", "name=run",
        *(["model/adapter=lora", f"model.adapter.dropout={job.dropout}"] if job.lora else []),
        *([f"compile={str(job.compile).lower()}"] if job.compile is not None else []), *job.overrides,
    ]  # fmt: skip
    return list({text.split("=", 1)[0]: text for text in found}.values())


def main() -> None:
    gate = Gate()
    code = run(
        overrides_of(gate.job),
        before_step=lambda step: gate.begin_step(),
        track=lambda report: gate.note(report.loss, report.tokens),
    )
    sys.exit(code or 1)


if __name__ == "__main__":
    main()
