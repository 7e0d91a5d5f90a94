"""Relative paths of data hold in any working folder; data that moved are named on the command line."""

import json
import shutil

import pytest
import yaml

pytestmark = pytest.mark.slow


@pytest.fixture
def run(dialog_trainer, tiny_options, jsonl_folder, tmp_path, monkeypatch):
    """A run of two steps that was started in `tmp_path` with relative paths of its data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        shutil.copy(jsonl_folder / f"{split}.jsonl", tmp_path / "data")
    paths = [f"data.{split}_data_path=data/{split}.jsonl" for split in ("train", "validation")]
    options = [option for option in tiny_options if not option.startswith("data")]
    code, out, err = dialog_trainer(*options, "data=jsonl", *paths, "name=run", "steps=2")
    assert code == 0, out + err
    return tmp_path / "runs/run"


def test_a_run_with_relative_paths_goes_on_from_another_folder(dialog_trainer, run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for mode in (("mode=validate",), ("mode=resume", "load_model_type=last", "steps=3")):
        code, out, err = dialog_trainer(*mode, f"resume_model_dir='{run}'")
        assert code == 0, out + err
        assert "data_path:" not in out
        assert "not exactly" not in out
    saved = yaml.safe_load((run / "args.yaml").read_text())["data"]
    assert saved["train_data_path"] == str(tmp_path / "data/train.jsonl")


def test_moved_data_are_typed_and_compared_by_their_content(dialog_trainer, run, tmp_path, monkeypatch):
    (tmp_path / "data").rename(tmp_path / "moved")
    resume = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", "steps=3")
    code, out, err = dialog_trainer(*resume)
    assert code == 2
    assert f"data.train_data_path={tmp_path}/data/train.jsonl: does not exist; pass a file" in err
    typed = [f"data.{split}_data_path=moved/{split}.jsonl" for split in ("train", "validation")]
    code, out, err = dialog_trainer(*resume, *typed)
    assert code == 0, out + err
    assert f"data.train_data_path: {tmp_path}/data/train.jsonl -> {tmp_path}/moved/train.jsonl" in out
    assert "not exactly" not in out
    with (tmp_path / "moved/train.jsonl").open("a") as file:
        file.write(json.dumps({"turns": ["one", "more"]}) + "\n")
    code, out, err = dialog_trainer(*resume[:-1], "steps=4", *typed)
    assert code == 0, out + err
    assert "the training data differs from the checkpoint's" in out
    assert "training continues, but not exactly" in out
