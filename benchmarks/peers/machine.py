"""Describes the machine and the versions of a benchmark."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS_OF = ("torch", "transformers", "trl", "accelerate", "numpy")


def describe(threads: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Date, machine and versions, as saved with the results; `settings` are those of the measurement."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "threads": threads,
            "memory GB": round(total_bytes() / 1e9), "device": device(), "load before": round(os.getloadavg()[0], 1),
        },
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in VERSIONS_OF}},
        "settings": settings,
    }  # fmt: skip


def format_line(found: dict[str, Any]) -> str:
    """`describe` in one line."""
    machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    return f"{found['date']}; {machine}; {versions}; {settings}."


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def total_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else total_bytes() // 2
