"""The options `figures.enabled` and `figures.format`."""

import sys

import pytest

from dialog_trainer.cli.main import main
from tests.helpers.processes import forked

pytestmark = pytest.mark.slow


def run_without_figures(*commands: list[str]) -> None:
    for arguments in commands:
        assert main(arguments) == 0
    assert "matplotlib" not in sys.modules


def drawn(folder):
    return {path.name for path in folder.rglob("*") if path.suffix in (".png", ".svg", ".pdf")}


def test_without_figures_nothing_is_drawn_or_imported(tiny_options, tmp_path):
    """One new process, in which no other test has imported matplotlib."""
    run = f"resume_model_dir='{tmp_path}/runs/run'"
    commands = [
        [*tiny_options, "steps=1", "mask_schedule.alignment_every_n_steps=1"],
        ["mode=validate", run],
        ["mode=resume", run, "load_model_type=last", "steps=2"],
        ["mode=inspect", *tiny_options],
    ]
    with forked(commands, tmp_path, entry=run_without_figures) as process:
        code, out = process.ended()
    assert code == 0, out
    assert drawn(tmp_path / "runs") == set()
    assert not (tmp_path / "runs/run/report.html").exists()
    assert (tmp_path / "runs/run-inspect/mask.html").is_file()


def test_figures_have_the_format_asked_for(dialog_trainer, tiny_options, tmp_path):
    figures = ("figures.enabled=true", "figures.format=svg")
    for arguments in (
        [*tiny_options, *figures, "steps=1"],
        ["mode=validate", f"resume_model_dir='{tmp_path}/runs/run'"],
        ["mode=inspect", *tiny_options, *figures],
    ):
        code, out, err = dialog_trainer(*arguments)
        assert code == 0, out + err
    names = drawn(tmp_path / "runs")
    assert {"loss.svg", "lr_schedule.svg", "by_depth.svg", "mask_weights.svg"} <= names
    assert all(name.endswith(".svg") for name in names)
    page = (tmp_path / "runs/run/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == 4
    assert "Scores on validation/response" in page
