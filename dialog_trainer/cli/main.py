"""The command line: check everything, then start a new run, a sweep, or a command on a saved run.

Exit codes: 0 done, 1 failed, 2 wrong options or files, 75 stopped by SIGTERM or the like, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable

from dialog_trainer import __version__
from dialog_trainer.cli.flags import Flags, parse_flags
from dialog_trainer.cli.guard import guard
from dialog_trainer.cli.places import DOTTED_KEYS, check_places, check_system
from dialog_trainer.distributed.environment import RankInfo, detect_rank
from dialog_trainer.errors import ConfigError
from dialog_trainer.screen import announce_if_slow, write, write_line
from dialog_trainer.signals import (
    SWEEP_JOB,
    block_stops,
    end_at_once_on_stop,
    ignore_stops,
    raise_on_stop,
    stop_with_standard_input,
)
from dialog_trainer.streams import OUTPUT, losses, protect_standard_streams

# Hydra, and what checks a configuration, are imported in the functions: --help and --version do not wait for them.


def entry() -> None:
    """Runs the command line of this process, and ends it."""
    sys.exit(run_process())


def run_process() -> int:
    """Runs the command line of this process, which is to end with the exit code that is returned."""
    end_at_once_on_stop()
    block_stops(False)  # held while the interpreter started
    if os.environ.pop(SWEEP_JOB, None):
        stop_with_standard_input()
    protect_standard_streams()
    sys.excepthook = lambda kind, error, trace: report_unexpected(error)
    code = guard(_run_in_place)
    ignore_stops()
    sys.stdout.flush()
    for name, error in losses:
        if name == OUTPUT and not isinstance(error, BrokenPipeError):  # as in `--help | head`
            write_line(f"{name}: {error.strerror}", sys.stderr)
            code = code or 1
    return code


def report_unexpected(error: BaseException) -> None:
    """Prints an error that is none of the user's in a line, and keeps its traceback in a file."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="replace", prefix="dialog_trainer-", suffix=".log", delete=False
        ) as file:
            file.write(text)
    except OSError:
        write_line(text, sys.stderr)
        return
    reason = str(error).strip().partition("\n")[0]
    write_line(
        f"{type(error).__name__}: {reason} (an error of dialog_trainer itself; the traceback is in {file.name})",
        sys.stderr,
    )


def main(arguments: list[str]) -> int:
    """Runs a command line; returns the exit code."""
    rank_info = detect_rank()
    if rank_info is None:
        return guard(lambda: _run(parse_flags(arguments)))
    return guard(lambda: _run_as_rank(rank_info, arguments))


def _run_in_place() -> int:
    check_places()
    if any(map(_names_code, sys.argv[1:])):
        _import_from_current_folder()
    return main(sys.argv[1:])


def _names_code(argument: str) -> bool:
    """Whether a typed option may name code of the user's own."""
    key, _, value = argument.lstrip("+").partition("=")
    return (
        key in ("allow_targets", "metrics.extra") or key.endswith("_target_") or (key in DOTTED_KEYS and "." in value)
    )


def _import_from_current_folder() -> None:
    """Lets `dialog-trainer` find a module in the current folder, as `python -m dialog_trainer` does; but only where one
    was named, and after all others: the folder may be a stranger's."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def _run(flags: Flags) -> int:
    if "--version" in flags.given:
        write_line(f"dialog_trainer {__version__}")
        return 0
    if "--help" in flags.given:
        return _print_help(flags)
    if flags.shows:
        return _show(flags)
    from dialog_trainer.cli.launch import run_job

    return _start(flags, run_job)


def _run_as_rank(rank_info: RankInfo, arguments: list[str]) -> int:
    """Of the ranks that torchrun or Slurm started, rank 0 composes and prints errors; the others follow it, so that none
    ends the job before an error is printed."""
    from dialog_trainer.cli.launch import follow_rank0, rendezvous, report_failure, run_job

    raise_on_stop()  # it concerns the other ranks too
    store = rendezvous(rank_info)
    if rank_info.rank:
        follow_rank0(store, arguments)

    def start() -> int:
        flags = parse_flags(arguments)
        if "--multirun" in flags.given:
            raise ConfigError(["-m: not under torchrun or Slurm, where every process would run the whole sweep"])
        return _start(flags, lambda job: run_job(job, store, arguments))

    code = guard(start)
    if code:
        report_failure(store, code)
    return code


def _start(flags: Flags, run_job: Callable[..., int]) -> int:
    """Composes and checks everything, then runs it."""
    check_system()
    from dialog_trainer.cli import compose, saved_config
    from dialog_trainer.cli.overrides import prepare_overrides
    from dialog_trainer.config.job import Job

    overrides, sweeps = prepare_overrides(flags.overrides), "--multirun" in flags.given
    mode = saved_config.find_mode(overrides)
    if mode and sweeps:
        raise ConfigError([f"-m: sweeps start new runs; mode={mode} works on one run at a time"])
    if mode:
        return _start_on_saved_runs(overrides, flags.config_dir, run_job)
    with announce_if_slow("composing the jobs of the sweep") if sweeps else contextlib.nullcontext():
        runs = compose.compose_runs(overrides, flags.config_dir, sweeps)
    _print_notes(dict.fromkeys(note for run in runs for note in run.notes))
    if sweeps:
        from dialog_trainer.cli import sweep

        return sweep.run_sweep(runs, overrides, flags.config_dir)
    [run] = runs
    return run_job(Job(run.config, parent=run.config.project, name=run.config.name, hydra_files=run.hydra_files))


def _start_on_saved_runs(overrides: list[str], config_dir: str | None, run_job: Callable[..., int]) -> int:
    """Runs a command on `resume_model_dir`, or on each of `runs`."""
    from dialog_trainer.cli import saved_config, several_runs

    places = several_runs.read_places(overrides)
    if places:
        if detect_rank() is not None:
            raise ConfigError(["runs=: not under torchrun or Slurm; pass processes=<count> or device=[0,1]"])
        return several_runs.run_on_each(places, overrides, config_dir, run_job)
    job = saved_config.load_changed_job(overrides, config_dir)
    _print_notes(job.notes)
    return run_job(job)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        write_line(f"note: {note}", sys.stderr)


def _print_help(flags: Flags) -> int:
    from dialog_trainer.cli.conf import CONF, list_choices
    from dialog_trainer.cli.help import format_help

    write(format_help(CONF, list_choices(flags.config_dir), flags.overrides) + "\n")
    return 0


def _show(flags: Flags) -> int:
    """Hydra's own flags, over options that are checked as those of a run are."""
    from dialog_trainer.cli import compose, sweep
    from dialog_trainer.cli.config_folder import search_path
    from dialog_trainer.cli.overrides import prepare_overrides

    arguments = flags.shows
    if "--shell-completion" in flags.given or "--hydra-help" in flags.given:
        arguments += flags.overrides if "--shell-completion" in flags.given else []
    else:
        overrides = prepare_overrides(flags.overrides)
        if overrides:
            for run in compose.compose_runs(overrides, flags.config_dir, sweep=False):
                _print_notes(run.notes)
        arguments += [*compose.add_dict_prefixes(overrides), *search_path(flags.config_dir)]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            return sweep.run_hydra(arguments)
    finally:
        text = printed.getvalue()
        if flags.given.get("--shell-completion", "").startswith("query"):
            # What the choices of a group share, in its _base.yaml, is no choice.
            text = " ".join(word for word in text.split() if "=_" not in word) + "\n"
        write(text)
