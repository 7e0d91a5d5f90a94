"""What one command asks for, as plain data that passed every check: the same for each process that works on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from dialog_trainer.config.options import Settings


@dataclass(frozen=True, slots=True)
class Job:
    """`settings["mode"]` with these settings. `changes` are those of a saved run, `(key, before, after)` as text.

    Of a new run, `parent` and `name` say where its folder is made, `name` None where `parent` is that folder and is
    there; `hydra_files` are written beside its settings.
    """

    settings: Settings
    changes: tuple[tuple[str, str, str], ...] = ()
    parent: str = ""
    name: str | None = None
    hydra_files: dict[str, object] = field(default_factory=dict)

    def text(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def of(text: str) -> Job:
        found = json.loads(text)
        return Job(**found | {"changes": tuple(map(tuple, found["changes"]))})
