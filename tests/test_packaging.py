"""Wheel and sdist hold `conf/`, and an installed package finds it from any folder."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_wheel_and_sdist_hold_conf(built):
    conf = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        assert {f"dialog_trainer/conf/{name}" for name in conf} <= set(wheel.namelist())
        assert not [name for name in wheel.namelist() if name.startswith(("tests", "benchmarks"))]
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.split("/", 1)[-1] for name in sdist.getnames()}
        assert {f"conf/{name}" for name in conf} | {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_an_installed_wheel_finds_conf_from_any_folder(built, tmp_path):
    target = tmp_path / "site"
    wheel = str(next(built.glob("*.whl")))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    found = subprocess.run(
        [sys.executable, "-c", "import dialog_trainer, sys; from dialog_trainer.cli.main import main; print(dialog_trainer.__file__); sys.exit(main(['--cfg', 'job']))"],
        cwd=elsewhere, env={**os.environ, "PYTHONPATH": str(target)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.splitlines()[0].startswith(str(target))
    assert "train_user_turn_mask_step: 0.5" in found
    assert list(elsewhere.iterdir()) == []


def test_the_console_script_runs_the_command_line():
    script = Path(sys.executable).with_name("dialog-trainer")
    found = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("dialog_trainer ")
