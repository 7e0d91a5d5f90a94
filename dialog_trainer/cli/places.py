"""What a process needs before anything else: a system that can write runs, a current folder, and a home for caches."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from dialog_trainer.errors import ConfigError
from dialog_trainer.screen import write_line

# Options that may have the dotted name of code of the user's own in place of one of ours.
DOTTED_KEYS = ("mode", "model.chat_format")


def check_system() -> None:
    """Raises `ConfigError` on native Windows, where a run could be written through somebody's link."""
    if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
        raise ConfigError(
            [
                "this system cannot write a run: it lacks directory descriptors (native Windows does); "
                "use Linux, macOS or WSL"
            ]
        )


def check_places() -> None:
    """Gives a user without a home, as in some containers, one for caches. Raises `ConfigError` without a current folder."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError([f"the current folder cannot be used ({error.strerror}): cd to one that exists"]) from None
    if os.path.expanduser("~") == "~":  # HOME is unset, and the user has no entry in the list of users
        home = _make_private_directory(Path(tempfile.gettempdir()) / f"dialog_trainer-{os.getuid()}")
        write_line(f"note: user {os.getuid()} has no home folder (HOME is unset); caches are in {home}", sys.stderr)
        os.environ["HOME"] = str(home)


def _make_private_directory(folder: Path) -> Path:
    """A directory that nobody else can write to. Raises `ConfigError` where somebody else has made it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError([f"{folder} is not a private folder of user {os.getuid()}: remove it, or set HOME"])
    return folder
