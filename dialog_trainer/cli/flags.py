"""Flags of the command line: ours, and those of Hydra that show something."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from dialog_trainer.cli.original_flags import answer_original_flags
from dialog_trainer.errors import ConfigError
from dialog_trainer.files import why_no_folder

# Flag -> (long form, what its value is; None without one, in brackets where it may be left out), and a line of help.
FLAGS = {
    "--multirun": ("-m", None, "run each combination of lists of values: -m seed=0,1,2"),
    "--config-dir": ("-cd", "FOLDER", "add config groups of your own, as FOLDER/experiment/mine.yaml"),
    "--help": ("-h", None, "show this page"),
    "--version": (None, None, "show the version"),
    "--cfg": ("-c", "job|hydra|all", "show the composed configuration and stop"),
    "--resolve": (None, None, "with --cfg: resolve references"),
    "--package": ("-p", "GROUP", "with --cfg: show one group, as optim"),
    "--info": ("-i", "[TOPIC]", "show how Hydra composes: all, config, defaults, defaults-tree, plugins or searchpath"),
    "--shell-completion": ("-sc", "install=bash", "print the tab completion of a shell: bash, zsh or fish"),
    "--hydra-help": (None, None, "show Hydra's own help"),
}
_SHORT = {short: name for name, (short, _, _) in FLAGS.items() if short}
_CFG = ("job", "hydra", "all")
_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
SHOWING = ("--cfg", "--resolve", "--package", "--info", "--shell-completion", "--hydra-help")


@dataclass(slots=True)
class Flags:
    """A command line in parts: overrides, and flags by their long name with their value ("" without one)."""

    overrides: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)

    @property
    def config_dir(self) -> str | None:
        return self.given.get("--config-dir")

    @property
    def shows(self) -> list[str]:
        """The arguments of Hydra that only show something."""
        return [part for name in SHOWING if name in self.given for part in (name, self.given[name]) if part]


def parse_flags(arguments: list[str]) -> Flags:
    """The parts of a command line. Raises `ConfigError` with every flag that does not exist, and the form that works."""
    answer = answer_original_flags(arguments)
    if answer:
        raise ConfigError([answer])
    found, errors = Flags(), []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument == "-":
            found.overrides.append(argument)
            continue
        typed, equals, value = argument.partition("=")
        name = _SHORT.get(typed, typed)
        takes = FLAGS[name][1] if name in FLAGS else "[VALUE]"
        if not equals and takes and rest and _may_be_value(name, rest[0]):
            value = rest.pop(0)
        error = _error(name, value)
        if error:
            errors.append(f"{argument if equals else ' '.join(filter(None, (typed, value)))}: {error}")
        else:
            found.given[name] = value
    if "--cfg" not in found.given:
        errors += [f"{name}: goes with --cfg job" for name in ("--resolve", "--package") if name in found.given]
    if errors:
        raise ConfigError(errors)
    return found


def _may_be_value(name: str, text: str) -> bool:
    if name == "--info":
        return text in _TOPICS
    return not text.startswith("-") and ("=" not in text or name in ("--shell-completion", "--config-dir"))


def _error(name: str, value: str) -> str | None:
    if name not in FLAGS:
        return "there is no such flag; --help shows all flags"
    if name == "--cfg" and value not in _CFG:
        return f"takes {' or '.join(_CFG)}"
    takes = FLAGS[name][1]
    if takes and not takes.startswith("[") and not value:
        return f"takes a value: {name} {takes}"
    if not takes and value:
        return "takes no value"
    if name == "--config-dir" and not os.path.isdir(value):
        return why_no_folder(value)
    return None
