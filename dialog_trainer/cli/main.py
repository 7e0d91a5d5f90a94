"""The command line: check everything, then start a new run or sweep through Hydra, or work on a run that is there.

Exit codes: 0 done, 1 failed, 2 options or files at failure, 75 stopped by SIGTERM and saved, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dialog_trainer import __version__
from dialog_trainer.cli.compose import CONF, add_dict_prefixes, compose_jobs, quote_overrides, quote_text, to_settings
from dialog_trainer.cli.launch import follow_rank0, rendezvous, report_failure, run_job
from dialog_trainer.cli.saved_config import find_mode, load_changed_job
from dialog_trainer.config.job import Job
from dialog_trainer.distributed.environment import RankInfo, detect_rank
from dialog_trainer.errors import ConfigError, DialogTrainerError
from dialog_trainer.tracking.run_directory import claim_run_directory

# What does a job and returns the exit code.
Begin = Callable[[Job], int]
SWEEPS = Path("multirun")
# Hydra's own flags that only show something.
SHOWING = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--resolve"}


def entry() -> None:
    """Runs the command line of this process, and ends it."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a reply that the terminal cannot show must not end a run
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Runs a command line; returns the exit code."""
    if "--version" in arguments:
        print(f"dialog_trainer {__version__}")
        return 0
    if any(argument.split("=", 1)[0] in SHOWING for argument in arguments):
        return _guarded(lambda: _show(arguments))
    rank_info = detect_rank()
    return _guarded(lambda: _in_group(rank_info, arguments) if rank_info else _start(_flags(arguments), run_job))


def _in_group(rank_info: RankInfo, arguments: list[str]) -> int:
    """Of the processes that torchrun or Slurm has started the main one composes and prints faults; the others follow it,
    so that none ends the group before the failure is told."""
    control = rendezvous(rank_info)
    if rank_info.rank:
        follow_rank0(control, arguments)
    code = _guarded(lambda: _start_in_group(control, arguments))
    if code:
        report_failure(control, code)
    return code


def _start_in_group(control, arguments: list[str]) -> int:
    flags = _flags(arguments)
    if flags.multirun:
        raise ConfigError(["-m: not under torchrun or Slurm, where every process would run the whole sweep"])
    return _start(flags, lambda job: run_job(job, control, arguments))


def _guarded(action: Callable[[], int]) -> int:
    try:
        return action()
    except DialogTrainerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{error.filename}: {error.strerror}; mend it or choose another path", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted before there was anything to save", file=sys.stderr)
        return 130


def _start(flags: argparse.Namespace, begin: Begin) -> int:
    mode = find_mode(flags.overrides)
    if flags.multirun and mode:
        raise ConfigError([f"-m: sweeps start new runs; mode={mode} works on one run at a time"])
    if mode:
        return begin(load_changed_job(flags.overrides, flags.config_dir))
    jobs = compose_jobs(flags.overrides, flags.config_dir, sweep=flags.multirun)
    if flags.multirun and any(settings["mode"] == "inspect" for settings in jobs):
        raise ConfigError(["-m: sweeps train; mode=inspect shows one mask at a time"])
    overrides = add_dict_prefixes(flags.overrides)
    leading = ["--config-dir", flags.config_dir] if flags.config_dir else []
    if not flags.multirun:
        return _through_hydra([*leading, *overrides], begin)
    folder = claim_run_directory(SWEEPS, jobs[0]["name"])
    print(f"{len(jobs)} jobs, in {folder}/<job> (project is not used)", flush=True)
    place = f"hydra.sweep.dir={quote_text(folder)}"
    try:
        return _through_hydra([*leading, "--multirun", *overrides, place], begin)
    finally:
        _tell_jobs(folder)


def _tell_jobs(folder: Path) -> None:
    if not (folder / "jobs.jsonl").exists():  # it ended before any job did
        return
    from rich.console import Console

    from dialog_trainer.reporting.terminal import print_tables
    from dialog_trainer.sweeps.status import build_sweep_table

    print_tables(Console(file=sys.stdout), [build_sweep_table(folder)])


def _show(arguments: list[str]) -> int:
    """Hydra's own flags, over options that are checked as those of a run are."""
    if not {"-sc", "--shell-completion"} & set(arguments):
        overrides = quote_overrides([text for text in arguments if "=" in text and not text.startswith("-")])
        flags = [text for text in arguments if "=" not in text or text.startswith("-")]
        if overrides:
            compose_jobs(overrides, None, sweep=False)
        arguments = [*flags, *add_dict_prefixes(overrides)]
    return _through_hydra(arguments, run_job)


def _flags(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dialog_trainer", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("overrides", nargs="*")
    try:
        flags, rest = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError([str(error)]) from None
    faults = [f"{flag}: there is no such flag; --help shows what there is" for flag in rest]
    if flags.config_dir and not os.path.isdir(flags.config_dir):
        faults.append(f"--config-dir {flags.config_dir}: there is no such folder")
    if faults:
        raise ConfigError(faults)
    flags.overrides = quote_overrides(flags.overrides)
    return flags


def _through_hydra(arguments: list[str], begin: Begin) -> int:
    """Lets Hydra compose and start the job, or the jobs of a sweep; returns the worst exit code."""
    codes: list[int] = []
    sys.argv = ["dialog_trainer", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(
        lambda config: codes.append(_job(config, begin))
    )()
    return max(codes, default=0)


def _job(config: DictConfig, begin: Begin) -> int:
    context = HydraConfig.get()
    overrides = list(context.overrides.task)
    settings = to_settings(config, overrides)
    hydra_files = {
        "hydra": {"hydra": OmegaConf.to_container(context, resolve=False, enum_to_str=True)},
        "overrides": overrides,
    }
    if context.mode != RunMode.MULTIRUN:
        job = Job(settings, parent=settings["project"], name=settings["name"], hydra_files=hydra_files)
        return _guarded(lambda: begin(job))
    # Hydra has made the job's folder. A failure ends this job only; a signal ends the sweep.
    folder = Path(context.runtime.output_dir)
    print(f"== job {context.job.num}: {' '.join(overrides)}", flush=True)
    code = 1
    try:
        code = _guarded(lambda: begin(Job(settings, parent=str(folder), hydra_files=hydra_files)))
    finally:
        row = {"job": context.job.num, "overrides": overrides, "exit_code": code}
        with (folder.parent / "jobs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if code in (75, 130):
        raise SystemExit(code)
    return int(code != 0)
