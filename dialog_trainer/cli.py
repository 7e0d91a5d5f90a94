"""The command line: check everything, hand over to Hydra, run a mode, answer with an exit code.

Exit codes: 0 done, 1 failed, 2 options or files at fault, 75 stopped by SIGTERM and saved, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dialog_trainer import __version__, composition, run_folder
from dialog_trainer.composition import CONF, Composed
from dialog_trainer.errors import ConfigError, DialogTrainerError

SWEEPS = Path("multirun")
# Hydra's own flags that only show something.
SHOWING = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--resolve"}


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments:
        print(f"dialog_trainer {__version__}")
        return 0
    try:
        return _run(arguments)
    except DialogTrainerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted before training began: nothing was saved", file=sys.stderr)
        return 130


def entry() -> None:
    """The installed command `dialog-trainer`."""
    sys.exit(main())


def _run(arguments: list[str]) -> int:
    if any(argument.split("=", 1)[0] in SHOWING for argument in arguments):
        return _hand_over(arguments)
    flags = _flags(composition.whole_dicts(arguments))
    jobs = composition.check(flags.overrides, flags.config_dir)
    added = ["--config-dir", flags.config_dir] if flags.config_dir else []
    if not flags.multirun:
        return _hand_over([*added, *flags.overrides])
    if "RANK" in os.environ:
        raise ConfigError(["-m: not under torchrun, where every process would run the whole sweep; start it without"])
    folder = None
    if not any(override.startswith("hydra.sweep.dir=") for override in flags.overrides):
        folder = run_folder.claim(SWEEPS, jobs[0].settings["name"])
        added.append(f"hydra.sweep.dir={folder}")
    return _hand_over(["--multirun", *added, *flags.overrides])


def _flags(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dialog_trainer", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("overrides", nargs="*")
    try:
        flags, rest = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError([str(error)]) from None
    faults = [f"{flag}: there is no such flag here; --help shows what there is" for flag in rest]
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        faults.append(f"--config-dir {flags.config_dir}: there is no such folder")
    if faults:
        raise ConfigError(faults)
    return flags


def _hand_over(arguments: list[str]) -> int:
    """Lets Hydra compose and start the job, or the jobs of a sweep; returns the worst exit code."""
    codes: list[int] = []

    def job(config: DictConfig) -> None:
        codes.append(_job(config))

    sys.argv = ["dialog_trainer", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    return max(codes, default=0)


def _job(config: DictConfig) -> int:
    context = HydraConfig.get()
    composed = composition.composed(config, list(context.overrides.task))
    if context.mode != RunMode.MULTIRUN:
        return run_mode(composed, _hydra_files(), None)
    # A job of a sweep: Hydra has made its folder; a fault ends this job only, a signal all of them.
    folder = Path(context.runtime.output_dir)
    print(f"== job {context.job.num}: {' '.join(context.overrides.task)}", flush=True)
    error = None
    try:
        code = run_mode(composed, _hydra_files(), folder)
    except DialogTrainerError as fault:
        print(fault, file=sys.stderr)
        code, error = 1, str(fault)
    row = {"job": context.job.num, "overrides": list(context.overrides.task), "exit_code": code, "error": error}
    with (folder.parent / "jobs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if code in (75, 130):
        raise SystemExit(code)
    return code


def _hydra_files() -> dict[str, object]:
    context = HydraConfig.get()
    overrides = OmegaConf.to_container(context.overrides.task)
    return {
        "hydra": {"hydra": OmegaConf.to_container(context, resolve=False, enum_to_str=True)},
        "overrides": overrides,
    }


def run_mode(composed: Composed, hydra_files: dict[str, object], folder: Path | None) -> int:
    """Runs what `mode` says; `folder` is the run folder where it is given, else `project/name` is claimed."""
    # Before torch is imported; deterministic kernels of CUDA ask for it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings = composed.settings
    if settings["mode"] == "chat":
        from dialog_trainer.modes import chatting, quiet

        quiet.hush_libraries()
        return chatting.run(settings)
    from rich.console import Console

    from dialog_trainer.modes import quiet, training, validating

    quiet.hush_libraries()
    console = Console()
    if settings["mode"] == "validate":
        return validating.run(composed, console)
    if settings["mode"] == "resume":
        return training.resume(composed, console)

    def claim() -> Path:
        return folder or run_folder.claim(Path(settings["project"]), settings["name"])

    return training.start(settings, console, claim, hydra_files)
