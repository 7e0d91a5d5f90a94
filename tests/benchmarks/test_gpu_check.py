"""The check of a GPU: parts that fail, that do not begin in time, and a machine without one."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_check")


def failing(arguments, count, folder):
    raise SystemExit(3)


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


def test_without_a_gpu_it_says_so(gpu_check, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    gpu_check.main()
    assert capsys.readouterr().out == f"torch {torch.__version__} finds no CUDA device: nothing to check\n"
