"""Where conf/ is, and the choices of its groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dialog_trainer.cli.plain_yaml import read_config_file

_PACKAGE = Path(__file__).resolve().parents[1]
# In a checkout conf/ lies next to the package, in a wheel inside it.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf" / "config.yaml").is_file() else _PACKAGE.parent / "conf"
# Groups whose files set options of any group, and which are no part of the configuration.
GLOBAL_GROUPS = ("experiment", "debug", "runtime")


def read_choice(group: str, name: str, config_dir: str | None) -> dict[str, Any]:
    """What the file of a choice, or `_base`, sets itself, without defaults; as Hydra does, that of conf/ first."""
    paths = (Path(root) / group / f"{name}.yaml" for root in (CONF, config_dir or CONF))
    found = next((path for path in paths if path.is_file()), None)
    tree = read_config_file(found)[0] if found else {}
    return {key: value for key, value in tree.items() if key != "defaults"}


def list_choices(config_dir: str | None) -> dict[str, list[str]]:
    """The groups that a user chooses from, with their choices; those of `config_dir` (the user's own) included."""
    found: dict[str, set[str]] = {}
    for root in (CONF, Path(config_dir or CONF)):
        for path in (*root.glob("*/*.yaml"), *root.glob("*/*/*.yaml")):  # a group, or one inside it as model/adapter
            group = path.parent.relative_to(root).as_posix()
            if not group.startswith("hydra") and not path.stem.startswith("_"):
                found.setdefault(group, set()).add(path.stem)
    return {group: sorted(names) for group, names in found.items()}


def choices_with(key: str, choices: Mapping[str, list[str]], config_dir: str | None) -> list[str]:
    """The choices of its group, as `group=choice`, whose own file sets a key."""
    groups = [group for group in choices if key.startswith(f"{group.replace('/', '.')}.")]
    group = max(groups, key=len, default="")
    own = key[len(group) + 1 :]
    return [f"{group}={name}" for name in choices.get(group, ()) if own in read_choice(group, name, config_dir)]
