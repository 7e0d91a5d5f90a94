"""Run folders as records: how a run ended, its scores, and files that cannot be read."""

import json

import numpy as np
import pytest
from helpers.run_folders import make_run, write

from dialog_trainer.cli.commands.report import collect_folder
from dialog_trainer.errors import CheckpointError
from dialog_trainer.reporting.report.collect import JobStatus


@pytest.mark.parametrize(
    ("options", "end", "complete"),
    [
        ({}, "finished", True),
        ({"step": 20}, "incomplete: step 20 of 40", False),
        ({"step": 20, "bad_validations": 5}, "stopped early", True),
        ({"step": 20, "bad_validations": 5, "settings": {"patience": 0}}, "incomplete: step 20 of 40", False),
    ],
)
def test_the_end_of_a_run_is_that_of_its_last_checkpoint(tmp_path, options, end, complete):
    run = collect_folder(make_run(tmp_path / "run", **options), None)
    assert (run.end, run.is_complete) == (end, complete)


def test_what_a_sweep_says_of_a_job_comes_first(tmp_path):
    folder = make_run(tmp_path / "run")
    run = collect_folder(folder, None, JobStatus("failed", "the disk is full", 90.0, 7))
    assert (run.end, run.error, run.seconds, run.tokens, run.is_complete) == (
        "failed",
        "the disk is full",
        90.0,
        7,
        False,
    )


def test_a_run_has_its_cost_and_its_environment(tmp_path):
    run = collect_folder(make_run(tmp_path / "run", scored=[3.0, 3.2]), None)
    assert (run.seconds, run.tokens, run.steps_done) == (39.0, 1000, 40)
    found = run.environment()
    assert (found["machine"], found["device"], found["validation data"]) == ("a-machine", "cpu", "c0ffee")
    assert found["test/response data"] == "d1"


def test_scores_are_those_of_the_dialogues_that_are_not_in_the_training_split(tmp_path):
    run = collect_folder(make_run(tmp_path / "run", scored=[3.0, 3.2, 9.0], contaminated=1), None)
    [split] = run.scored
    assert split.left_out == 1
    assert split.values["assistant_nll"] == pytest.approx(3.1)
    assert split.values["ppl"] == pytest.approx(np.exp(3.1))
    assert split.values["distinct2"] == 0.4
    assert split.dialogues["assistant_nll"].values == pytest.approx([3.0, 3.2])
    assert "distinct2" not in split.dialogues


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("weights/last/trainer/state.json", "{}", "state.json has no"),
        ("validation/test/response/scores.json", "[]", "scores cannot be read"),
        ("validation/test/response/scores.json", "\x00", "scores cannot be read"),
        ("validation/test/response/dialogues.jsonl", '{"dialogue_id": 3}\n', "a row without an id"),
        ("validation/test/response/dialogues.jsonl", json.dumps({"dialogue_id": "a", "statistics": {"ppl": [1]}}), "scores cannot"),
        ("validation/test/response/dialogues.jsonl", json.dumps({"dialogue_id": "a", "statistics": {"ppl": "x"}}), "no list of numbers"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_a_note_and_the_rest_is_read(tmp_path, name, content, note):
    folder = make_run(tmp_path / "run", scored=[3.0, 3.2])
    write(folder / name, content)
    run = collect_folder(folder, None)
    assert [note in one for one in run.notes] == [True]
    assert len(run.rows.validations) == 4


@pytest.mark.parametrize("content", ["", "steps: [", "a: 1", "steps: !!python/object:os.system x"])
def test_damaged_settings_are_an_error(tmp_path, content):
    folder = make_run(tmp_path / "run")
    write(folder / "args.yaml", content)
    with pytest.raises(CheckpointError, match=r"args\.yaml"):
        collect_folder(folder, None)
