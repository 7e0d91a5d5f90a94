"""The commands (`mode=`): what each one runs and needs. Checks ask the record, not the name. No torch, no Hydra."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator

from dialog_trainer.config.fields import Words
from dialog_trainer.errors import ConfigError

# `(job, console)` -> exit code. The types of both are those of `config.job.Job` and `rich.console.Console`.
RunCommand = Callable[[Any, Any], int]
_TRAINING_CODE = ("data", "optim", "scheduler", "mask_schedule", "logger")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True, slots=True)
class Command:
    """A command. One of the user's own is such a record in a module, chosen by its dotted name: `mode=my_pkg.command`.

    Attributes:
        name: what `mode=` gives, for messages.
        run: the function, or its dotted name (imported when the command runs).
        works_on_saved_run: needs `resume_model_dir`, whose `args.yaml` is the base of the configuration.
        needs_data: reads dialogues.
        needs_torch: computes with torch, whose import takes seconds.
        trains: makes updates, chooses best checkpoints and may compile the model.
        scores: computes `metrics.names`.
        shares_work: may run on several processes, each of which takes a shard.
        takes_runs: works on the runs of `runs`.
        runs_code_of: the open groups whose `_target_` it runs; the others need no permission.
    """

    name: str
    run: RunCommand | str
    works_on_saved_run: bool = False
    needs_data: bool = True
    needs_torch: bool = True
    trains: bool = False
    scores: bool = False
    shares_work: bool = False
    takes_runs: bool = False
    runs_code_of: tuple[str, ...] = ("data",)

    def load(self) -> RunCommand:
        """The function to run."""
        if not isinstance(self.run, str):
            return self.run
        module, _, name = self.run.rpartition(".")
        function: RunCommand = getattr(importlib.import_module(module), name)
        return function


_COMMANDS = "dialog_trainer.cli.commands"
BUILT_IN = {
    command.name: command
    for command in (
        Command("train", f"{_COMMANDS}.train.train_new_run", trains=True, scores=True, shares_work=True,
                runs_code_of=_TRAINING_CODE),
        Command("resume", f"{_COMMANDS}.resume.resume_run", works_on_saved_run=True, trains=True, scores=True,
                shares_work=True, runs_code_of=_TRAINING_CODE),
        Command("validate", f"{_COMMANDS}.validate.validate_run", works_on_saved_run=True, scores=True, shares_work=True,
                takes_runs=True),
        Command("report", f"{_COMMANDS}.report.report_runs", needs_data=False, needs_torch=False, takes_runs=True,
                runs_code_of=()),
        Command("chat", f"{_COMMANDS}.chat.chat_with_run", works_on_saved_run=True, needs_data=False, runs_code_of=()),
        Command("export", f"{_COMMANDS}.export.export_run", works_on_saved_run=True, needs_data=False, runs_code_of=()),
        Command("before_after", f"{_COMMANDS}.before_after.compare_before_after", works_on_saved_run=True),
        Command("inspect", f"{_COMMANDS}.inspect.inspect_mask", runs_code_of=("data", "mask_schedule")),
        Command("verify_resume", f"{_COMMANDS}.verify_resume.verify_resume", trains=True, scores=True,
                runs_code_of=_TRAINING_CODE),
    )
}  # fmt: skip


def is_dotted(name: str) -> bool:
    """Whether a name is a dotted one, of code of the user's own."""
    return bool(_DOTTED.fullmatch(name))


@cache
def find_command(mode: str) -> Command:
    """The command of a mode; one of the user's own is imported. Raises `ConfigError`."""
    if mode in BUILT_IN:
        return BUILT_IN[mode]
    module, _, name = mode.rpartition(".")
    try:
        command = getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        raise ConfigError([f"mode={mode}: cannot be imported ({type(error).__name__}: {error})"]) from None
    if not isinstance(command, Command):
        raise ConfigError([f"mode={mode}: is a {type(command).__name__}; it must be a dialog_trainer.Command"])
    return command


def command_of(values: Mapping[str, Any]) -> Command | None:
    """The command of a configuration's valid values; None where `mode` is not among them."""
    return find_command(values["mode"]) if "mode" in values else None


def _check_mode(mode: str) -> str:
    if mode not in BUILT_IN and not is_dotted(mode):
        raise ValueError("is no command")
    return mode


Mode = Annotated[
    str,
    AfterValidator(_check_mode),
    Words(f"{', '.join(BUILT_IN)}, or the dotted name of a command of your own"),
]
