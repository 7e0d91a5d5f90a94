"""What one command asks for: the validated configuration and where a run is made, the same on every rank."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from dialog_trainer.config.frozen import FrozenMapping, thaw
from dialog_trainer.config.schema import Config


@dataclass(frozen=True, slots=True)
class Job:
    """The command `config.mode` with this configuration. `changes` are those of a saved run, `(key, before, after)`.

    For a new run, `parent` and `name` say where its folder is made; with `name` None, `parent` is that folder and
    exists. `hydra_files` (name to content) are written to `.hydra/` of the run. `notes` say what was understood; whoever
    composed the job has them, not its other ranks.
    """

    config: Config
    changes: tuple[tuple[str, str, str], ...] = ()
    parent: str = ""
    name: str | None = None
    hydra_files: FrozenMapping = field(default_factory=FrozenMapping)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The job as text for the other ranks."""
        plain: dict[str, Any] = {
            "config": self.config.to_dict(),
            "changes": thaw(self.changes),
            "parent": self.parent,
            "name": self.name,
            "hydra_files": thaw(self.hydra_files),
        }
        return json.dumps(plain)

    @staticmethod
    def from_json(text: str) -> Job:
        """The job that `to_json` gave."""
        found = json.loads(text)
        return Job(
            config=Config.from_dict(found["config"]),
            changes=tuple((key, before, after) for key, before, after in found["changes"]),
            parent=found["parent"],
            name=found["name"],
            hydra_files=FrozenMapping(found["hydra_files"]),
        )
