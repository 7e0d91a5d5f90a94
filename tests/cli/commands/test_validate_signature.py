"""mode=validate: scores, signature, and the files of the run."""

import json
import shutil

import pytest
import yaml

pytestmark = pytest.mark.slow


def test_scores_are_written_into_the_run(dialog_trainer, trained_run):
    code, out, err = dialog_trainer("mode=validate", f"resume_model_dir='{trained_run}'", "split=test")
    assert code == 0, err
    place = trained_run / "validation/test/response"
    scores = json.loads((place / "scores.json").read_text())
    replies = [json.loads(line) for line in (place / "replies.jsonl").read_text().splitlines()]
    assert set(scores["scores"]) == {"ppl", "bleu2", "bleu4", "nist2", "nist4"}
    assert (scores["split"], scores["step"], scores["checkpoint"]) == ("test", 4, "run/weights/step-00000004")
    assert (scores["protocol"], scores["dialogues"], scores["replies"]) == ("response", 2, len(replies))
    assert "protocol:response|role:assistant|context:gold|" in scores["signature"]
    assert "|dialogues:2/4|" in scores["signature"]
    assert scores["signature"] in out
    assert f"{len(replies)} replies in 2 dialogues (metrics.max_dialogues=null: in all 4)." in out
    assert f"{scores['scores']['ppl']['value']:.1f}" in out
    kept = yaml.safe_load((trained_run / "args.yaml").read_text())["digest"]
    assert scores["mask_digest"] == kept
    assert set(kept) == {"data", "vocabulary", "format", "truncation", "schedule", "whole"}
    losses = scores["losses"]
    assert f"assistant_nll {losses['assistant_nll']:.4f} ({losses['assistant_tokens']:,} tokens)" in out
    assert f"user_nll {losses['user_nll']:.4f} ({losses['user_tokens']:,} tokens)" in out


def test_validate_equals_the_validation_in_training(dialog_trainer, trained_run):
    row = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()][-1]
    assert row["split"] == "validation"
    assert dialog_trainer("mode=validate", f"resume_model_dir='{trained_run}'", "load_model_type=last")[0] == 0
    scores = json.loads((trained_run / "validation/validation/response/scores.json").read_text())
    assert scores["validation_loss"] == row["validation_loss"]
    assert {name: found["value"] for name, found in scores["scores"].items()} == {
        name: row[name] for name in ("ppl", "bleu2", "bleu4", "nist2", "nist4")
    }
    assert all(found["low"] <= found["value"] <= found["high"] for found in scores["scores"].values())
    assert scores["signature"] == row["signature"]
    assert scores["losses"] == {name: row[name] for name in scores["losses"]}
    assert {"assistant_nll", "user_nll", "end_nll", "user_tokens", "nll_turn_00", "nll_turn_10"} < set(scores["losses"])


def test_typed_options_apply(dialog_trainer, trained_run):
    code, out, _ = dialog_trainer(
        "mode=validate",
        f"resume_model_dir='{trained_run}'",
        "metrics.max_dialogues=null",
        "metrics.names=[bleu1,bleu2]",
    )
    assert code == 0
    assert "replies in 8 dialogues." in out
    assert "metrics.max_dialogues: 2 -> null" in out
    scores = json.loads((trained_run / "validation/validation/response/scores.json").read_text())["scores"]
    assert set(scores) == {"bleu1", "bleu2"}


def test_nothing_else_of_the_run_changes(dialog_trainer, trained_run):
    before = {path: path.read_bytes() for path in trained_run.rglob("*") if path.is_file()}
    assert dialog_trainer("mode=validate", f"resume_model_dir='{trained_run}'")[0] == 0
    assert {path: path.read_bytes() for path in before} == before


def test_a_missing_split_names_the_option(dialog_trainer, tiny_options, jsonl_folder, tmp_path):
    options = [option for option in tiny_options if not option.startswith("data")]
    own = ["data=jsonl", f"data.train_data_path='{jsonl_folder}/train.jsonl'", "name=own", "steps=1"]
    code, out, err = dialog_trainer(*options, *own)
    assert code == 0, err
    assert "0.05 of" in out
    assert "held out by a hash of the dialogue" in out
    validate = ("mode=validate", f"resume_model_dir='{tmp_path}/runs/own'", "split=test")
    code, _, err = dialog_trainer(*validate)
    assert code == 2
    assert "there is no test data: pass data.test_data_path=<file, folder or pattern>" in err
    assert dialog_trainer(*validate, f"data.test_data_path='{jsonl_folder}/test.jsonl'")[0] == 0


def test_several_runs_are_scored_in_one_go_and_not_again(dialog_trainer, trained_run):
    other = shutil.copytree(trained_run, trained_run.with_name("run2"), symlinks=True)
    broken = shutil.copytree(trained_run, trained_run.with_name("run3"), symlinks=True)
    (broken / "args.yaml").write_text("steps: [")
    options = ("mode=validate", f"runs='{trained_run.parent}'", "split=test")
    code, out, err = dialog_trainer(*options)
    assert code == 2, err
    assert f"== run 2 of 2: {other}" in out
    assert "2 of 3 runs are scored; not so, as said above: run3" in out
    scores = [json.loads((run / "validation/test/response/scores.json").read_text()) for run in (trained_run, other)]
    assert scores[0]["losses"] == scores[1]["losses"]
    _, out, _ = dialog_trainer(*options)
    assert out.count("has these scores already: skipped") == 2
    _, out, _ = dialog_trainer(*options, "metrics.max_new_tokens=3", "metrics.names=[ppl]")
    assert "skipped" not in out
    assert "2 of 3 runs are scored" in out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["runs=nowhere"], "runs=nowhere: there is no such folder"),
        (["runs='{runs}'", "metrics.max_dialogues=0"], "metrics.max_dialogues=0: must be"),
        (["runs=[1]"], "runs=[1]: must be a folder, a pattern of folders"),
    ],
)
def test_wrong_options_of_several_runs_come_before_the_first(dialog_trainer, trained_run, options, error):
    code, out, err = dialog_trainer("mode=validate", *(one.format(runs=trained_run.parent) for one in options))
    assert (code, out) == (2, "")
    assert err.count(error) == 1
