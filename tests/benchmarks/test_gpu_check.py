"""The check of a GPU: what it compares, parts that fail or do not begin in time, and a machine without one."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.helpers.configs import compose_config

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_check")


def failing(arguments, count, folder):
    raise RuntimeError("CUDA error")


@pytest.mark.parametrize(
    ("parts", "minutes", "code", "outcomes"),
    [
        ({"a": lambda *_: True, "b": lambda *_: True}, 9, 0, ["a passed", "b passed"]),
        ({"a": lambda *_: False, "b": lambda *_: True}, 9, 1, ["a FAILED", "b passed"]),
        ({"a": failing, "b": lambda *_: True}, 9, 1, ["a FAILED", "b passed"]),
        ({"a": lambda *_: True, "b": lambda *_: True}, 0, 0, ["a not run", "b not run"]),
    ],
)
def test_each_part_is_reported(gpu_check, monkeypatch, capsys, parts, minutes, code, outcomes):
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    assert gpu_check.run_parts(Namespace(parts=list(parts), minutes=minutes), 1) == code
    summary = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[-len(parts) :]]
    assert [line[: len(outcome)] for line, outcome in zip(summary, outcomes, strict=True)] == outcomes


@pytest.fixture
def measured(gpu_check, monkeypatch, tmp_path):
    """`measured(part, losses)` runs a part whose measurements have these losses, by precision; None for one that fails."""

    def run(part: str, losses: dict[str, list | None]) -> bool:
        def measure(config, size, **_):
            if losses[config.precision] is None:
                raise SystemExit(1)
            steps = [[[100, loss, 0.5, 0.5]] for loss in losses[config.precision]]
            return {"steps": steps, "parameters": 1000, "peak_bytes": 2 * 10**9}

        config = compose_config("model=gpt2_tiny", "data=chitchat")
        monkeypatch.setattr(gpu_check, "measure", measure)
        monkeypatch.setattr(gpu_check, "model_options", lambda size, folder: [])
        monkeypatch.setattr(gpu_check, "compose_config", lambda *_: (config, "chitchat"))
        return gpu_check.PARTS[part](Namespace(device="cpu", steps=2, size="0.7M"), 1, tmp_path)

    return run


@pytest.mark.parametrize(
    ("losses", "passed", "line"),
    [
        ({"bf16": [5.01, 4.0], "fp16": [5.0, 4.0]}, True, "| bf16 | yes | 1 | 0.01 |  |"),
        ({"bf16": [5.1, 4.0], "fp16": [5.0, 4.0]}, False, "| bf16 | no | 1 | 0.1 | FAILED: above 0.05 |"),
        ({"bf16": [5.0, None], "fp16": [5.0, 4.0]}, False, "| bf16 | no | 1 | nan | FAILED: above 0.05 |"),
        ({"bf16": [5.0, 4.0], "fp16": None}, False, "| fp16 | no | 1 | nan | FAILED: above 0.05 |"),
    ],
)
def test_losses_are_compared_with_fp32_on_the_cpu(measured, capsys, losses, passed, line):
    assert measured("losses", {"fp32": [5.0, 4.0], **losses}) is passed
    lines = capsys.readouterr().out.splitlines()
    assert line in lines
    assert "| fp32 | no | 1 | 0 |  |" in lines  # after those that failed


def test_speed_has_a_line_for_each_kind(measured, capsys):
    assert not measured("speed", {"fp32": [5.0, 4.0], "bf16": [5.0, 4.0], "fp16": None})
    lines = capsys.readouterr().out.splitlines()
    assert "| bf16 | yes | 1 | 200 | ? | 2.00 |" in lines
    assert "| fp16 | no | 1 | FAILED | | |" in lines


@pytest.mark.parametrize(("part", "has"), [("resume", "mode=verify_resume"), ("run", "metrics.decoding=sample")])
def test_the_options_of_runs_are_understood(gpu_check, monkeypatch, tmp_path, part, has):
    typed = []
    monkeypatch.setattr(gpu_check, "_run", lambda *options: typed.extend(options) or 0)
    monkeypatch.setattr(gpu_check, "model_options", lambda size, folder: ["model=gpt2_tiny"])
    assert gpu_check.PARTS[part](Namespace(device="cpu", steps=2, size="0.7M"), 1, tmp_path)
    assert has in typed
    assert compose_config(*typed).precision == "bf16"


def test_without_a_gpu_it_says_so(gpu_check, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    gpu_check.main()
    assert capsys.readouterr().out == f"torch {torch.__version__} finds no CUDA device: nothing to check\n"
