"""Branches: kept once, and taken so that no run which was killed on the way looks as if it could go on."""

import json

import pytest

from dialog_trainer.cli.commands import branches
from dialog_trainer.cli.commands.branches import keep_branch, replay_best, take_branch
from dialog_trainer.errors import CheckpointError
from dialog_trainer.training.checkpoint import compare_with_manifest, write_manifest


def test_a_run_has_no_checkpoint_until_all_of_them_are_its_own(trained_run, tmp_path, monkeypatch):
    def end(*_):
        raise KeyboardInterrupt

    new = tmp_path / "new"
    new.mkdir()
    monkeypatch.setattr(branches, "_readdress", end)
    with pytest.raises(KeyboardInterrupt):
        take_branch(trained_run, new, 4, {}, {})
    assert (new / "metrics.jsonl").exists()
    assert [path.name for path in new.glob("*") if path.is_dir()] == []


def test_a_branch_that_is_there_stays(trained_run):
    branch = trained_run / "branches/step-00000004"
    branch.mkdir(parents=True)
    (branch / "read by another run").touch()
    keep_branch(trained_run, state={"step": 4})
    assert [path.name for path in branch.iterdir()] == ["read by another run"]


def test_a_manifest_names_each_file_that_has_changed(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/rows").write_text("{}")
    write_manifest(tmp_path)
    assert compare_with_manifest(tmp_path, ".") is None
    (tmp_path / "inner/rows").write_text("[]")
    assert "inner/rows and manifest.json differ (sha256)" in str(compare_with_manifest(tmp_path, "."))


@pytest.mark.parametrize("values", [{"validation_loss": 1.0}, {"validation_loss": None, "best_metric_score": 0.5}])
def test_a_validation_without_its_loss_or_score_is_named(values, tmp_path):
    row = {"step": 2, "attempt": 0, "split": "validation", **values}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
    with pytest.raises(CheckpointError, match="the validation at step 2 lacks its loss or its score"):
        replay_best(tmp_path, counts_after=0)
