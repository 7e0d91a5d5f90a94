"""Paths of data in a saved configuration."""

import os

import pytest

from dialog_trainer.config.paths import with_absolute_data_paths


@pytest.mark.parametrize(
    ("key", "value", "is_path"),
    [
        ("path", "there", True), ("train_data_path", "there/file", True), ("folder", "./there", True), ("dir", "there", True),
        ("files", ["there/file", "there"], True), ("sources", ["there"], True), ("hub_id", "there", True), ("hub_id", "owner/name", False),
        ("path", "nowhere", False), ("path", None, False), ("path", "", False), ("separator", "there", False),
        ("cache_dir", "there", False), ("train_data_path", "there/*.json", True), ("id", "there", True), ("id", "owner/name", False), ("profile_name", "there", False), ("paths", [3, None], False),
    ],
)  # fmt: skip
def test_only_paths_of_data_become_absolute(tmp_path, monkeypatch, key, value, is_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    tree = {"project": "there", "data": {key: value, "_target_": "there"}}
    found = with_absolute_data_paths(tree)
    values = value if isinstance(value, list) else [value]
    expected = [os.path.normpath(tmp_path / one) for one in values] if is_path else values
    assert found["data"][key] == (expected if isinstance(value, list) else expected[0])
    assert found | {"data": tree["data"]} == tree
    assert with_absolute_data_paths(found) == found
