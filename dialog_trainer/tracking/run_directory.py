"""The directory of a run: claims its name, locks it, and keeps its configuration and the logs of its ranks."""

from __future__ import annotations

import io
import itertools
import os
import platform
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import yaml

from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.files import open_to_append, read_bounded, write_atomically
from dialog_trainer.screen import write_line
from dialog_trainer.streams import open_text

MAX_CONFIG_BYTES = 2**20
# Keys of `args.yaml` that say which run it is; the others are its configuration.
IDENTITY = ("run_id", "origin")


def claim_run_directory(parent: Path, name: str) -> Path:
    """Makes `parent/name`, or the next free `name2`, `name3` ...; of two processes that ask at once each gets its own.

    Raises `ConfigError` where it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for count in itertools.count(1):
            directory = parent / (name if count == 1 else f"{name}{count}")
            with suppress(FileExistsError):
                directory.mkdir()
                return directory
    except OSError as error:
        raise ConfigError(
            [f"project={parent} name={name}: cannot be made ({error.strerror}); choose another"]
        ) from None
    raise AssertionError("unreachable")


@contextmanager
def lock_run_directory(run: Path) -> Iterator[None]:
    """Locks the directory for this process; the lock ends with the process at the latest.

    Raises `CheckpointError` if another process holds it. Where the system has no locks, says so.
    """
    try:
        import fcntl
    except ImportError:
        write_line(f"note: this system has no file locks: train {run} in one process at a time", sys.stderr)
        yield
        return
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


def write_config(
    run: Path,
    config: Mapping[str, object],
    hydra_files: Mapping[str, object],
    origin: Mapping[str, object] | None = None,
) -> None:
    """Writes `args.yaml` and `.hydra/` of a new run. `config` holds plain values, with every choice resolved.

    The run gets an id; `origin` names the run and step from which it goes on.
    """
    config = {**config, "run_id": secrets.token_hex(8)} | ({"origin": origin} if origin else {})
    for name, content in {"config": config, **hydra_files}.items():
        write_atomically(run, f".hydra/{name}.yaml", _to_yaml(content))
    write_atomically(run, "args.yaml", _to_yaml(config))


def replace_config(run: Path, config: Mapping[str, object], attempt: int) -> None:
    """Writes `args.yaml` of a resumed run, and keeps that of the attempt before as `args.<attempt>.yaml`."""
    before = read_bounded(run, "args.yaml", MAX_CONFIG_BYTES)
    config = {**config, **_read_identity(before)}
    if _to_yaml(config).encode("utf-8") == before:
        return
    kept = f"args.{attempt - 1}.yaml"
    if not os.path.lexists(run / kept):  # the number of an attempt that ended before its first row is used again
        write_atomically(run, kept, before)
    write_atomically(run, "args.yaml", _to_yaml(config))


def read_run_id(run: Path) -> str | None:
    """The id that the run got at its first start; None for a run of version 0.2 or before."""
    return _read_identity(read_bounded(run, "args.yaml", MAX_CONFIG_BYTES)).get("run_id")


def read_origin(run: Path) -> Mapping[str, object] | None:
    """The `origin` that `write_config` got; None for a run that was trained from its start."""
    return _read_identity(read_bounded(run, "args.yaml", MAX_CONFIG_BYTES)).get("origin")


def _read_identity(content: bytes) -> dict[str, Any]:
    saved = yaml.safe_load(content)
    return {key: saved[key] for key in IDENTITY if key in saved}


def open_log(run: Path, name: str, rank: int, size: int) -> TextIO:
    """Opens `logs/<name>.log` for appending. A log that cannot be written any more, as on a full disk, raises nothing."""
    run.mkdir(parents=True, exist_ok=True)  # a machine without the shared file system has no run directory
    with open_to_append(run, f"logs/{name}.log") as file:
        log = open_text(io.FileIO(os.dup(file.fileno()), "a"), str(run / "logs" / f"{name}.log"))
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    write_line(f"== {now}, rank {rank} of {size}, process {os.getpid()} on {platform.node()}", log)
    return log


def _to_yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
