"""Starting a job: what torch and OpenMP read from the environment."""

import os
import subprocess
import sys

import pytest

from dialog_trainer.cli.launch import READ_BY_TORCH, WAITING, set_environment


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "1"}])
def test_waiting_threads_yield_unless_the_user_has_set_how_they_wait(own, monkeypatch):
    for name in ("OMP_WAIT_POLICY", *WAITING, *READ_BY_TORCH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", own.copy())
    set_environment()
    assert os.environ == READ_BY_TORCH | (own or WAITING)


def test_openmp_reads_it_before_torch_is_there():
    """GNU's OpenMP prints what it read as it is loaded."""
    code = (
        "from dialog_trainer.cli.launch import set_environment\n"
        "import sys; assert 'torch' not in sys.modules\n"
        "set_environment()\n"
        "import torch"
    )
    environ = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    shown = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{WAITING['GOMP_SPINCOUNT']}'" in shown.stderr or "GOMP" not in shown.stderr
