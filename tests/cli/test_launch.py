"""Starting a job: what torch and OpenMP read from the environment."""

import os
import subprocess
import sys

import pytest

from dialog_trainer.cli.waiting import LOOKS, YIELD, choose_waiting, count_running_threads


@pytest.mark.parametrize(
    ("own", "running", "expected"),
    [
        ({}, [99] * LOOKS, YIELD),
        ({}, [1], {}),
        ({}, [99] * (LOOKS - 1) + [1], {}),  # busy for a moment
        ({}, [None], {}),  # the system does not say
        ({"OMP_WAIT_POLICY": "active"}, [], {}),
        ({"GOMP_SPINCOUNT": "7"}, [], {}),
        ({"KMP_BLOCKTIME": "1"}, [], {}),
    ],
    ids=["busy", "idle", "a moment", "unknown", "policy", "spin count", "block time"],
)
def test_waiting_threads_yield_on_a_busy_machine_unless_the_user_has_chosen(own, running, expected, monkeypatch):
    for name in ("OMP_WAIT_POLICY", *YIELD):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    looks = iter(running)
    assert choose_waiting(lambda: next(looks)) == expected
    assert next(looks, "none left") == "none left"


def test_running_threads_are_counted():
    running = count_running_threads()
    assert running is None or running >= 1


@pytest.mark.slow
def test_openmp_reads_it_before_torch_is_there():
    """GNU's OpenMP prints what it read as it is loaded."""
    code = (
        "from dialog_trainer.cli import launch\n"
        "import sys; assert 'torch' not in sys.modules\n"
        "from dialog_trainer.cli.waiting import YIELD\n"
        "launch.choose_waiting = lambda: YIELD\n"
        "launch.set_environment()\n"
        "import torch"
    )
    environ = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    shown = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{YIELD['GOMP_SPINCOUNT']}'" in shown.stderr or "GOMP" not in shown.stderr
