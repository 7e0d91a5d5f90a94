"""A screen that goes away: training, validation and chat go on or end quietly, and the logs hold what was printed."""

import io
import json
import os

import pytest

from dialog_trainer import streams
from dialog_trainer.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture
def lose(monkeypatch):
    """`lose(stdout, stderr, stdin)` makes the standard streams of this process: "pipe" has lost its reader, "full" is a
    full disk."""
    streams.losses.clear()

    def streams_of(stdout: str, stderr: str, stdin: str = "") -> None:
        for name, kind in (("stdout", stdout), ("stderr", stderr)):
            if kind == "pipe":
                reading, descriptor = os.pipe()
                os.close(reading)
            else:
                descriptor = os.open("/dev/full", os.O_WRONLY)
            title = {"stdout": streams.OUTPUT, "stderr": streams.ERRORS}[name]
            monkeypatch.setattr(f"sys.{name}", streams.open_text(io.FileIO(descriptor, "w"), title))
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))

    yield streams_of
    streams.losses.clear()


def test_the_work_goes_on_and_is_logged(lose, tiny_options, tmp_path):
    run = tmp_path / "runs/run"
    lose("pipe", "full")
    assert main([*tiny_options, "steps=2"]) == 0
    log = (run / "logs/rank-0.log").read_text()
    for line in (
        "validation: 8 dialogues", "note: standard output is gone (Broken pipe)", "step 2/2", "finished at step 2", "chat:",
        "note: standard error is gone (No space left on device)",
    ):  # fmt: skip
        assert log.count(line) == 1, log
    lose("full", "pipe")
    assert main(["mode=validate", f"resume_model_dir='{run}'"]) == 0
    assert json.loads((run / "validation/validation/response/scores.json").read_text())["step"] == 2
    log = (run / "logs/validate.log").read_text()
    assert "note: standard output is gone (No space left on device)" in log
    assert f"written to {run}/validation/validation/response\n" in log


@pytest.mark.parametrize(("stdout", "code"), [("pipe", 0), ("full", 1)])
def test_a_chat_without_a_reader_ends(lose, tiny_options, tmp_path, dialog_trainer, stdout, code):
    assert dialog_trainer(*tiny_options, "steps=1")[0] == 0
    lose(stdout, "pipe", "hello\n" * 1_000_000)
    assert main(["mode=chat", f"resume_model_dir='{tmp_path}/runs/run'"]) == code


def test_a_chat_whose_input_cannot_be_read_ends(tiny_options, tmp_path, dialog_trainer, monkeypatch):
    assert dialog_trainer(*tiny_options, "steps=1")[0] == 0
    with open(os.open(os.devnull, os.O_WRONLY)) as unreadable:
        monkeypatch.setattr("sys.stdin", unreadable)
        code, out, err = dialog_trainer("mode=chat", f"resume_model_dir='{tmp_path}/runs/run'")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "the chat ended: standard input or output cannot be used (Bad file descriptor)"


def test_an_unexpected_error_names_the_log(tiny_options, tmp_path, dialog_trainer, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("dialog_trainer.cli.commands.callbacks.run_validation", fail)
    options = [*tiny_options, "steps=4", "save_every_n_steps=1", "validate_every_n_steps=3"]
    code, _, err = dialog_trainer(*options)
    log = tmp_path / "runs/run/logs/rank-0.log"
    assert code == 1
    assert err == (
        "ZeroDivisionError: a bug\n"
        "The saved checkpoints are complete: continue with mode=resume load_model_type=last\n"
        f"the traceback is in {log}\n"
    )
    assert "Traceback (most recent call last)" in log.read_text()
    assert json.loads((tmp_path / "runs/run/weights/last/trainer/state.json").read_text())["step"] == 2
