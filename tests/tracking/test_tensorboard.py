"""The TensorBoard logger, read back from its event files."""

import re

import pytest

from dialog_trainer.tracking import tensorboard
from dialog_trainer.tracking.jsonl import MetricWriter, read_rows
from dialog_trainer.tracking.tensorboard import TensorBoardLogger


def read_scalars(run):
    """`{tag: [(step, value)]}` as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in sorted(events.Tags()["scalars"])
    }


def run_attempt(run, attempt, steps, *, shown=True):
    """Writes rows, `v2` for a validation at step 2, and logs them; `shown` False: without the logger."""
    metrics = run / "metrics.jsonl"
    before = len(list(read_rows(metrics)))
    writer = MetricWriter(metrics.parent, metrics.name, attempt)
    for word in steps.split():
        split = "validation" if word[0] == "v" else "train"
        values = {f"{split}_loss": attempt + int(word.strip("v")) / 8, "ppl": None, "signature": "response"}
        writer.add(step=int(word.strip("v")), epoch=0, split=split, values=values)
    writer.close()
    if shown:
        logger = TensorBoardLogger(run)
        for row in list(read_rows(metrics))[before:]:
            logger.log(row)
        logger.close()
        # TensorBoard orders event files by the second of their start, which is the same here.
        for file in (run / "tensorboard").glob("events.out.tfevents.??????????.*"):
            file.rename(file.with_name(re.sub(r"\d{10}", str(attempt), file.name, count=1)))


def test_numbers_are_scalars_by_split_at_their_step(tmp_path):
    run_attempt(tmp_path, 0, "0 1 v2")
    assert read_scalars(tmp_path) == {
        "train/train_loss": [(0, 0.0), (1, 0.125)],
        "validation/validation_loss": [(2, 0.25)],
    }


@pytest.mark.parametrize("overlap", [1000, 1, 0])
def test_resumed_run_continues_and_shows_each_step_once(tmp_path, monkeypatch, overlap):
    """Attempt 1 resumes at step 2: of attempt 0 the rows 0 and 1 and the validation at 2 stay."""
    monkeypatch.setattr(tensorboard, "OVERLAP_STEPS", overlap)
    run_attempt(tmp_path, 0, "0 1 v2 2 3 v4 4")
    run_attempt(tmp_path, 1, "2 3 v4")
    assert read_scalars(tmp_path) == {
        "train/train_loss": [(0, 0.0), (1, 0.125), (2, 1.25), (3, 1.375)],
        "validation/validation_loss": [(2, 0.25), (4, 1.5)],
    }


@pytest.mark.parametrize("shown", [True, False])
def test_missing_steps_of_an_earlier_attempt_are_filled_in(tmp_path, shown):
    """A killed process may not have flushed its last rows; a logger may be turned on at a resume."""
    run_attempt(tmp_path, 0, "0 1", shown=shown)
    writer = MetricWriter(tmp_path, "metrics.jsonl", 0)
    writer.add(step=2, epoch=0, split="train", values={"train_loss": 0.25})
    writer.close()
    run_attempt(tmp_path, 1, "3")
    assert read_scalars(tmp_path) == {"train/train_loss": [(0, 0.0), (1, 0.125), (2, 0.25), (3, 1.375)]}


def test_logger_without_rows_leaves_nothing(tmp_path):
    TensorBoardLogger(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
