"""The folder of a run: who owns a name, the settings that it keeps, and what its processes say."""

from __future__ import annotations

import fcntl
import itertools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import yaml

from dialog_trainer.config.options import Settings
from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.files import write_atomically


def claim_run_directory(parent: Path, name: str) -> Path:
    """Makes `parent/name`, or the next free `name2`, `name3` ...; `mkdir` decides between two who ask at once."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for count in itertools.count(1):
            folder = parent / (name if count == 1 else f"{name}{count}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue
    except OSError as error:
        raise ConfigError(
            [f"project={parent} name={name}: cannot be made ({error.strerror}); choose another"]
        ) from None
    raise AssertionError("unreachable")


@contextmanager
def lock_run_directory(run: Path) -> Iterator[None]:
    """Holds the folder for this process, however it ends. Raises `CheckpointError` if another process holds it."""
    descriptor = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise CheckpointError(f"{run} is in use by another process that trains it; wait for it or stop it") from None
    try:
        yield
    finally:
        os.close(descriptor)


def write_config(run: Path, settings: Settings, hydra_files: dict[str, object]) -> None:
    """`args.yaml` and `.hydra/` of a new run."""
    (run / ".hydra").mkdir()
    for name, content in {"config": settings, **hydra_files}.items():
        (run / ".hydra" / f"{name}.yaml").write_text(_yaml(content), encoding="utf-8")
    (run / "args.yaml").write_text(_yaml(settings), encoding="utf-8")


def replace_config(run: Path, settings: Settings, attempt: int) -> None:
    """`args.yaml` of a resumed run; the one of the attempt before stays as `args.<attempt>.yaml`."""
    if _yaml(settings) == (run / "args.yaml").read_text(encoding="utf-8"):
        return
    kept = run / f"args.{attempt - 1}.yaml"
    if not kept.exists():  # an attempt that ended before its first row has its number taken again
        os.link(run / "args.yaml", kept)
    write_atomically(run / "args.yaml", _yaml(settings))


def open_rank_log(run: Path, rank: int, size: int) -> TextIO:
    """What a process that is not the main one says of its work; opened to go on where it ends."""
    (run / "logs").mkdir(parents=True, exist_ok=True)  # on a machine that does not share it
    file = (run / "logs" / f"rank-{rank}.log").open("a", encoding="utf-8", buffering=1)
    print(f"rank {rank} of {size}, process {os.getpid()} on {platform.node()}", file=file)
    return file


def _yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
