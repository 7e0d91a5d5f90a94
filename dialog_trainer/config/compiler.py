"""What torch needs on a machine to compile. No torch."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def missing_compiler() -> str | None:
    """What this machine lacks, and the package that has it; None if nothing."""
    if os.name != "posix":  # torch looks for another compiler there, and says what it lacks
        return None
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler}; install the package {Path(compiler).name}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return f"there is no Python.h; install the package python{sysconfig.get_python_version()}-dev"
    return None
