"""`environment.json` of a run: the command line, the git commit, packages and machine of its newest attempt."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from dialog_trainer.files import read_bounded, write_atomically

ENVIRONMENT_FILE = "environment.json"
MAX_BYTES = 2**16
PACKAGES = (
    "dialog_trainer",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "peft",
    "numpy",
    "hydra-core",
)
GIT_SECONDS = 5.0
# Nothing that a repository configures is run.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


def write_environment(run: Path, device: str) -> None:
    """Writes what is known about this process; `device` as torch names it."""
    found = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command line": f"python -m dialog_trainer {shlex.join(sys.argv[1:])}",
        "git": describe_git(Path.cwd()),
        "machine": f"{platform.node()}: {platform.system()} {platform.release()}, {_read_cpu()}, {os.cpu_count()} CPUs",
        "device": device,
        "waiting threads": f"GOMP_SPINCOUNT={os.environ.get('GOMP_SPINCOUNT', 'as OpenMP has it')}",
        "python": platform.python_version(),
        "packages": ", ".join(_list_packages()),
    }
    write_atomically(run, ENVIRONMENT_FILE, json.dumps(found, ensure_ascii=False, indent=1) + "\n")


def read_environment(run: Path) -> dict[str, str]:
    """What `write_environment` wrote; empty where that is not there, or somebody else's."""
    try:
        found = json.loads(read_bounded(run, ENVIRONMENT_FILE, MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: text for name, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}


def describe_git(folder: Path) -> str:
    """Commit and state of the checkout that a folder is in."""
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if not commit:
        return "no checkout"
    changed = _ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    if changed is None:
        return f"commit {commit}, in a state that git did not tell"
    count = len(changed.splitlines())
    return f"commit {commit}, " + (f"with changes in {count} file{'s' * (count > 1)}" if count else "unchanged")


def _ask_git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            [*_GIT, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _list_packages() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def _read_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
