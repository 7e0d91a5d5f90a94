"""Where conf/ is, and the choices of its groups."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# In a checkout conf/ lies next to the package, in a wheel inside it.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf" / "config.yaml").is_file() else _PACKAGE.parent / "conf"
# Groups whose files set options of any group, and which are no part of the configuration.
GLOBAL_GROUPS = ("experiment", "debug", "runtime")


def list_choices(config_dir: str | None) -> dict[str, list[str]]:
    """The groups that a user chooses from, with their choices; those of `config_dir` (the user's own) included."""
    found: dict[str, set[str]] = {}
    for root in (CONF, Path(config_dir or CONF)):
        for path in root.glob("*/*.yaml"):
            if path.parent.name != "hydra" and not path.stem.startswith("_"):
                found.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(names) for group, names in found.items()}
