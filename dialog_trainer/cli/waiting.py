"""How the threads of OpenMP wait for each other: they spin on a machine of their own, and yield on a shared one.

A thread that waits spins for 6 ms (GNU's OpenMP) or 200 ms (LLVM's and Intel's) before it gives its core away. On an idle
machine that is a quarter faster for a small model; next to busy programs it is time that the other thread needs
(docs/performance.md). OpenMP reads the choice as it is loaded, so it is made once, at the start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# For GNU's OpenMP some microseconds, for LLVM's and Intel's a millisecond.
YIELD = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
_CHOSEN_BY_USER = {"OMP_WAIT_POLICY", *YIELD}
# A machine is busy where other programs want so many of its cores at each of these looks.
BUSY_SHARE, LOOKS, SECONDS_BETWEEN = 0.5, 5, 0.02
_LOADAVG = "/proc/loadavg"


def choose_waiting(count: Callable[[], int | None] | None = None) -> dict[str, str]:
    """Environment variables to set before torch is imported; none where the user has set one, or the machine is idle.

    `count` gives the threads of all programs that want a core now, this one among them; None where that is not known.
    """
    if _CHOSEN_BY_USER & os.environ.keys():
        return {}
    count = count or count_running_threads
    cores = os.cpu_count() or 1
    for look in range(LOOKS):
        running = count()
        if running is None or running - 1 < BUSY_SHARE * cores:
            return {}
        if look < LOOKS - 1:
            time.sleep(SECONDS_BETWEEN)
    return YIELD


def count_running_threads() -> int | None:
    """Threads of this machine that run or wait for a core; None where the system does not say (Linux does)."""
    try:
        with open(_LOADAVG, encoding="ascii") as file:
            return int(file.read().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None
