"""The notebook goes from data to a right reply through the public API."""

import json

import pytest

from tests.helpers.pages import ROOT

pytestmark = pytest.mark.slow


def test_every_cell_runs_and_the_reply_is_right(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell, "cell", "exec"), names)
    assert names["reply"] == "One soup for Mina ."
    assert "step 150  assistant 0." in capsys.readouterr().out
    assert all(not cell.get("outputs") for cell in notebook["cells"])
