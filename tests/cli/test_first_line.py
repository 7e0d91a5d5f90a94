"""What is imported when the first line of each command is on the screen: nothing that takes long."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dialog_trainer.config.commands import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "matplotlib", "datasets", "pandas", "pyarrow", "scipy", "sklearn", "rich", "numpy")
# What is swept or scored is looked for with code that needs numpy, at the latest when the first line is due.
FEW = {"numpy"}
# The process ends with its first line, which names what of HEAVY is imported then.
SCRIPT = f"""
import os, sys
from dialog_trainer.cli.main import main

class FirstLine:
    def write(self, text):
        if text.strip():
            os.write(1, (text.strip() + chr(10) + " ".join(name for name in {HEAVY} if name in sys.modules)).encode())
            os._exit(0)

    def flush(self):
        pass

sys.stdout = sys.stderr = FirstLine()
main(sys.argv[1:])
"""
FIRST_LINES = (
    "importing torch", "starting mode=report", "composing the jobs", "sweep ", "reading the options", "== run 1 of 1",
    "Train a causal language model", "dialog_trainer ",
)  # fmt: skip
ON_A_RUN = [name for name, command in BUILT_IN.items() if command.works_on_saved_run]
COMMANDS = {
    **{name: ([f"mode={name}"], set()) for name in BUILT_IN},
    "two processes": (["mode=train", "processes=2"], set()),
    "rank 0 of a group": (["mode=train"], set()),
    "sweep": (["-m", "seed=0,1", "sweep.dry_run=true"], FEW),
    "several runs": (["mode=validate"], FEW),
    "--help": (["--help"], set()),
    "--version": (["--version"], set()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_line_waits_for_no_heavy_import(name, tiny_options, trained_run, tmp_path):
    arguments, allowed = COMMANDS[name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if name == "rank 0 of a group":
        ranks = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        environment |= {key: str(value) for key, value in (ranks | {"MASTER_PORT": 1}).items()}
    if name == "several runs":
        options = [f"runs={trained_run.parent}"]
    elif name in ON_A_RUN:
        options = [f"resume_model_dir={trained_run}"]
    else:
        options = [f"runs={trained_run.parent}"] if name == "report" else tiny_options
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments, *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    line, _, imported = found.stdout.rpartition("\n")
    assert line.startswith(FIRST_LINES), line + found.stderr
    assert set(imported.split()) <= allowed, line
