"""What the splits of the data share, looked for once for the same two splits and told."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from dialog_trainer import experiment
from dialog_trainer.data import tables
from dialog_trainer.data.leaks import GRAM_WORDS, MIN_JACCARD, Leaks, Overlap, leaks
from dialog_trainer.data.tables import DialogueTable
from dialog_trainer.errors import DataError
from dialog_trainer.options import Settings


def leaked(settings: Settings, training: DialogueTable, validation: DialogueTable, say: experiment.Say) -> set[int]:
    """Says what the splits share, and returns the training dialogues that `data.drop_leaks` leaves out."""
    found = {"validation": leaks_between(settings, training, validation)}
    if settings["data"]["drop_leaks"]:
        try:
            found["test"] = leaks_between(settings, training, experiment.dialogues(settings, "test", say))
        except DataError as error:
            say(f"note: data.drop_leaks looks at the validation split alone: {error}")
    for split, one in found.items():
        say(one.summary(split))
    if not settings["data"]["drop_leaks"]:
        return set()
    out = {index for one in found.values() for index in one.widest().training}
    say(f"data.drop_leaks: {len(out):,} training dialogues are left out")
    return out


def leaks_between(settings: Settings, training: DialogueTable, held_out: DialogueTable) -> Leaks:
    """The held-out dialogues that also stand in the training split; looked for once for the same two splits."""
    key = tables.key_of(training.digest, held_out.digest, MIN_JACCARD, GRAM_WORDS)

    def look(aside: Path) -> None:
        (aside / "leaks.json").write_text(json.dumps(asdict(leaks(training, held_out))), encoding="utf-8")

    folder = tables.written_once(experiment.cache_dir(settings) / f"leaks-{key}", look)
    found = json.loads((folder / "leaks.json").read_text(encoding="utf-8"))
    kinds = {
        name: found[name] and Overlap(*map(tuple, found[name].values())) for name in ("exact", "normalised", "near")
    }
    return Leaks(**kinds, num_held_out=found["num_held_out"])
