"""The examples of docs/extending run from a folder outside the checkout, as a user would copy them."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from helpers.processes import forked

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ["data._target_=my_source.ChatLogs", "data.folder=logs", "data.assistant=Ann"]

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, dialogue_turns):
    """The six files and 48 chat logs."""
    for path in (ROOT / "docs" / "extending").glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "logs").mkdir()
    for number, turns in enumerate(dialogue_turns):
        lines = [f"{'Ann' if index % 2 else 'Bob'}: {text}" for index, text in enumerate(turns)]
        (tmp_path / "logs" / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def run(job, code: int = 0) -> str:
    """The output of a command that ends with `code`."""
    with job as process:
        found, out = process.ended()
    assert found == code, out
    return out


def test_the_command_example(folder):
    out = run(forked(["mode=my_command.command", *SOURCE, "split=train"], folder))
    assert "user: " in out
    assert "assistant: " in out


def test_source_metric_schedule_and_tracker_examples(folder):
    command = [
        *SOURCE, "metrics.extra=[my_metric.question_rate]", "metrics.names=[ppl,bleu2,question_rate]",
        "mask_schedule._target_=my_schedule.exponential", "mask_schedule.rate=2",
        "model.chat_format=my_format.ChatLogFormat", "logger._target_=my_tracker.CsvTracker", "logger.keys=[validation_loss]",
        "model=gpt2_tiny", "model.layers=1", "model.width=16", "model.heads=2", "model.vocab_size=300", "steps=4",
        "batch_size=8", "metrics.max_dialogues=2", "metrics.generation.max_new_tokens=4", "figures.enabled=false",
        "project=runs", "name=one", "device=cpu",
    ]  # fmt: skip
    run(forked(command, folder))
    rows = [json.loads(line) for line in (folder / "runs/one/metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if row["split"] == "train"]
    validation = [row for row in rows if row["split"] == "validation"]
    assert training[0]["user_weight"] == 1 > training[1]["user_weight"] > training[2]["user_weight"]
    assert 0 <= validation[-1]["question_rate"] <= 1
    with (folder / "runs/one/validation.csv").open() as file:
        assert [(int(step), float(loss)) for step, loss in csv.reader(file)] == [
            (row["step"], row["validation_loss"]) for row in validation
        ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*SOURCE, "data.no=1"], "takes no no"),
        (["data._target_=my_source.Missing"], "cannot be imported"),
        (["mode=my_metric.question_rate"], "must be a dialog_trainer.Command"),
    ],
)
def test_a_wrong_extension_is_named(folder, arguments, reason):
    out = run(forked([*arguments, "model=gpt2_tiny"], folder), code=2)
    assert reason in out
    assert "Traceback" not in out
