"""The summary of metrics.jsonl: every validation, some training rows, the newest attempt, and the time of all."""

import json
import os

import pytest

from dialog_trainer.errors import CheckpointError
from dialog_trainer.tracking.jsonl import read_newest_rows
from dialog_trainer.tracking.row_summary import MAX_TRAINING_ROWS, summarize_rows


def row(step, split="train", attempt=0, seconds=0.0, **values):
    return {"step": step, "epoch": 0, "attempt": attempt, "split": split, "time_seconds": seconds, **values}


def written(path, rows, end=""):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows) + end, encoding="utf-8")
    return path


def test_a_long_run_keeps_all_validations_and_training_rows_at_equal_steps(tmp_path):
    rows = [row(step, seconds=step / 10, train_loss=1.0) for step in range(3000)]
    rows += [row(step, "validation", seconds=300.0, validation_loss=2.0) for step in range(100, 3001, 100)]
    found = summarize_rows(written(tmp_path / "metrics.jsonl", rows), 3000)
    assert [one["step"] for one in found.validations] == [*range(100, 3001, 100)]
    assert [one["step"] for one in found.training] == [*range(0, 3000, 3000 // MAX_TRAINING_ROWS)]
    assert found.seconds == 300


def test_the_newest_attempt_replaces_what_it_repeats_and_the_time_is_of_all(tmp_path):
    first = [row(step, seconds=step + 1) for step in range(4)] + [
        row(2, "validation", seconds=9),
        row(4, "validation", seconds=10),
    ]
    second = [row(step, attempt=1, seconds=step - 1) for step in (2, 3)] + [row(4, "validation", 1, 5.0)]
    path = written(tmp_path / "metrics.jsonl", [*first, *second], end='{"step": 5, "epo')
    found = summarize_rows(path, 4)
    assert found.training == read_newest_rows(path, "train")
    assert found.validations == read_newest_rows(path, "validation")
    assert found.seconds == 15


def test_a_file_of_something_else(tmp_path):
    assert summarize_rows(tmp_path / "none.jsonl", 4).validations == []
    (tmp_path / "bad.jsonl").write_bytes(
        b'\xff\n{"step": -1}\n' + b"[" * 9999 + b"\n" + json.dumps(row(1, loss=[1])).encode()
    )
    assert summarize_rows(tmp_path / "bad.jsonl", 4).training == []
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(CheckpointError, match="regular file"):
        summarize_rows(tmp_path / "pipe.jsonl", 4)
