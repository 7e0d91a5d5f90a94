"""The command as processes of its own: help, completion, closed streams, Ctrl-C, modules in the current folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
MODULE = [sys.executable, "-m", "dialog_trainer"]
# What the installed command runs: its own folder, not the current one, is on the module path.
COMMAND = [sys.executable, "-c", "import sys; sys.path.remove(''); from dialog_trainer.__main__ import entry; entry()"]


def run(*arguments: str, cwd: Path, command=MODULE, **keys) -> subprocess.CompletedProcess:
    environ = ENVIRON | {"PYTHONHASHSEED": "0"}
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, check=False, **keys
    )


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess:
    line = line.replace("dialog-trainer", f"{sys.executable} -m dialog_trainer")
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=ENVIRON, capture_output=True, text=True, check=False, timeout=120
    )


def test_help_has_a_line_for_each_option_with_default_unit_and_range(tmp_path):
    page = run("--help", cwd=tmp_path).stdout
    for line in (
        "  steps=30000                     Updates (optimizer steps) of the run, counted from its first start. [a whole",
        "  optim.lr0=auto                  Learning rate that the scheduler's factor multiplies. auto: 1e-4 for a pretrained",
        "  model                           gpt2 (default), gpt2_tiny",
        "  -m, --multirun",
        "Mask: which turns carry the loss, and when (group mask_schedule)",
    ):
        assert line in page
    assert "data.validation_share=0.05" in run("--help", "data=jsonl", cwd=tmp_path).stdout
    assert list(tmp_path.iterdir()) == []


def test_every_option_is_on_the_page_of_help():
    from dialog_trainer.cli.conf import CONF
    from dialog_trainer.cli.help import SECTIONS, format_help
    from dialog_trainer.config.schema import Config
    from dialog_trainer.config.table import settings

    choices = {"model": ["gpt2", "gpt2_tiny"], "model/adapter": ["none", "lora"]}
    page = format_help(CONF, choices, ["model=gpt2_tiny", "model/adapter=lora"])
    for key in settings(Config):
        if not key.endswith("_target_"):
            assert f"  {key}=" in page, key
    assert {key for keys in SECTIONS.values() for key in keys} == {key for key in settings(Config) if "." not in key}


@pytest.mark.parametrize(
    ("line", "code", "errors"),
    [
        ("dialog-trainer --help | head -1", 0, ""),
        ("dialog-trainer --cfg job | head -1; exit ${PIPESTATUS[0]}", None, None),
        ("dialog-trainer --help >&-", 0, "standard output is closed: nothing will be shown\n"),
        ("dialog-trainer --version <&-", 0, ""),
        ("dialog-trainer --version > /dev/full", 1, "standard output: No space left on device\n"),
        (
            "mkdir gone; cd gone; rmdir ../gone; dialog-trainer --version",
            2,
            "1 error in the configuration:\n  - the current folder cannot be used (No such file or directory): cd to one that "
            "exists\n",
        ),
        ("dialog-trainer steps=0 2>&-", 2, ""),
    ],
)
def test_a_closed_stream_is_no_traceback(line, code, errors, tmp_path):
    found = shell(line, tmp_path)
    assert code in (None, found.returncode)
    assert errors is None or found.stderr == errors
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("seconds", "number", "code"), [(0.15, signal.SIGINT, 130), (0.4, signal.SIGTERM, 75), (1.0, signal.SIGHUP, 75)]
)
def test_a_stop_during_the_start_is_one_line(seconds, number, code, tmp_path):
    started = subprocess.Popen(
        [*MODULE, "model=gpt2_tiny", "data=chitchat", "steps=1000000", f"project={tmp_path}/runs"],
        cwd=tmp_path, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(seconds)
    started.send_signal(number)
    _, errors = started.communicate(timeout=120)
    if "runpy" in errors or "<frozen" in errors:  # before the first line of the package
        assert seconds < 0.2
        return
    assert started.returncode == code
    told = errors.splitlines()
    assert told[-1] == "interrupted before there was anything to save"
    assert told[:-1] in ([], ["importing torch and transformers ..."])  # said where the import takes long


def test_a_module_in_the_current_folder_is_found(tmp_path):
    (tmp_path / "own_schedule.py").write_text("print('imported')\nraise RuntimeError('far enough \\x1b[2J')\n")
    own = ["mask_schedule._target_=own_schedule.weights", "data=chitchat", "model=gpt2_tiny", "device=cpu"]
    found = run(*own, cwd=tmp_path)
    assert "imported" in found.stdout, found.stderr
    assert "RuntimeError: far enough \\x1b[2J" in found.stderr


@pytest.mark.parametrize(("typed", "sung"), [(["--cfg", "job"], ""), (["--help"], ""), (["mode=mine.it"], "mine ")])
def test_the_command_imports_nothing_else_from_the_current_folder(typed, sung, tmp_path):
    for name in ("yaml", "hydra", "pydantic", "readline", "logging", "mine"):
        (tmp_path / f"{name}.py").write_text(f"open('sung', 'a').write('{name} ')\n")
    run(*typed, cwd=tmp_path, command=COMMAND)
    assert (tmp_path / "sung").exists() == bool(sung)
    assert not sung or (tmp_path / "sung").read_text() == sung


def test_completion_is_installed_for_the_command(tmp_path):
    script = run("-sc", "install=bash", cwd=tmp_path).stdout
    registered = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p dialog-trainer"], capture_output=True, text=True, check=False
    )
    assert registered.returncode == 0, registered.stderr
    assert "hydra_bash_completion dialog-trainer" in registered.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("optim.l", "optim.lr0="),
        ("data=", "data=chitchat data=dailydialog data=files data=hub data=jsonl data=mixture"),
    ],
)  # fmt: skip
def test_the_tab_key_completes_choices_and_options(typed, offered, tmp_path, monkeypatch):
    line = f"dialog-trainer {typed}"
    monkeypatch.setitem(ENVIRON, "COMP_LINE", line)
    monkeypatch.setitem(ENVIRON, "COMP_POINT", str(len(line)))
    assert run("-sc", "query=bash", cwd=tmp_path).stdout.split() == offered.split()
    assert list(tmp_path.iterdir()) == []


def test_hydras_own_flags_show_the_configuration(tmp_path):
    group = tmp_path / "groups" / "model"
    group.mkdir(parents=True)
    own, shared = ["pretrained_model: gpt2", "max_len: 64", "dropout: null"], ["chat_format: auto", "chat_date: null"]
    (group / "mine.yaml").write_text("\n".join(own))
    shown = run("--config-dir", "groups", "--cfg", "job", "model=mine", "--package", "model", cwd=tmp_path)
    assert shown.stdout.splitlines() == ["# @package model", *shared, *own, "adapter:", "  method: none"]
    assert "main" in run("--info", "searchpath", cwd=tmp_path).stdout
    assert "Hydra" in run("--hydra-help", cwd=tmp_path).stdout


def test_an_error_is_answered_at_once_whatever_the_number_of_steps(tmp_path):
    start = time.process_time()
    found = run("steps=10000000", "mask_schedule=piecewise", "optim.lr0=-1", "data=chitchat", cwd=tmp_path, timeout=60)
    assert found.returncode == 2
    assert "optim.lr0=-1: must be a number above 0" in found.stderr
    assert time.process_time() - start < 2
