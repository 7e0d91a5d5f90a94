"""What mode=validate leaves: `scores.json`, `scores.md`, `replies.jsonl`, and `dialogues.jsonl` to compare with later."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from dialog_trainer.errors import CheckpointError
from dialog_trainer.evaluation.analysis import Statistics
from dialog_trainer.files import write_atomically
from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.metrics.registry import SCORES, compute_statistics
from dialog_trainer.types import Reply

SCORES_FILE, DIALOGUES_FILE = "scores.json", "dialogues.jsonl"
# What later comparisons ask of `scores.json`.
_NEEDED = {"checkpoint": str, "split": str, "protocol": str, "data": str, "dialogues": int, "signature": str}


def reply_row(reply: Reply) -> dict:
    return {
        "dialogue_id": reply.dialogue_id,
        "turn_index": reply.turn_index,
        "history": list(reply.history),
        "reply": reply.text,
        "reference": reply.reference,
        "ended": reply.ended,
    } | ({"references": list(reply.references)} if reply.references else {})


def write_scores(place: Path, scored: dict, replies: Sequence[Reply], statistics: Statistics, table: str) -> None:
    """Each file is written atomically, `scores.json` last."""
    names = list(statistics.rows)
    by_dialogue: dict[str, dict[str, list[float]]] = {}
    # Perplexities, which have every dialogue, first: so each score finds its dialogues in their own order again.
    for name in sorted(names, key=lambda name: -len(statistics.ids[name])):
        for identifier, row in zip(statistics.ids[name], statistics.rows[name].tolist(), strict=True):
            by_dialogue.setdefault(identifier, {})[name] = row
    of_replies = compute_statistics([n for n in names if n in SCORES], replies)
    write_atomically(
        place / "replies.jsonl",
        _lines(
            reply_row(reply) | {"statistics": {name: found[index].tolist() for name, found in of_replies.items()}}
            for index, reply in enumerate(replies)
        ),
    )
    write_atomically(
        place / DIALOGUES_FILE,
        _lines({"dialogue_id": identifier, "statistics": found} for identifier, found in by_dialogue.items()),
    )
    write_atomically(place / "scores.md", table)
    write_atomically(place / SCORES_FILE, json.dumps(scored, indent=2, ensure_ascii=False) + "\n")


def archive_scores(place: Path, scored: dict) -> Path | None:
    """Moves scores that are there, but of another checkpoint or made in another way, beside; returns where they are."""
    try:
        there = json.loads((place / SCORES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if isinstance(there, dict) and all(there.get(key) == scored[key] for key in ("checkpoint", "signature", "data")):
        return None
    beside = (place.with_name(f"{place.name}-{number}") for number in count(1))
    aside = next(folder for folder in beside if not folder.exists())
    os.replace(place, aside)
    return aside


def read_scores(place: Path) -> tuple[dict, Statistics]:
    """The scores in a folder and their statistics by dialogue. Raises `CheckpointError`."""
    try:
        scored = json.loads((place / SCORES_FILE).read_text(encoding="utf-8"))
        missing = [key for key, kind in _NEEDED.items() if not isinstance(scored.get(key), kind)]
        if missing:
            raise ValueError(f"{SCORES_FILE} has no {', '.join(missing)}")
        return scored, _statistics(place / DIALOGUES_FILE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"compare_with={place}: {_reason(error)}; run mode=validate on that run first, with the same split and metrics"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"has no {Path(error.filename).name} yet"
    return f"holds no scores of this version ({error})"


def _statistics(path: Path) -> Statistics:
    ids: dict[str, list[str]] = {}
    sums: dict[str, list[list[float]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            for name, found in row["statistics"].items():
                ids.setdefault(name, []).append(row["dialogue_id"])
                sums.setdefault(name, []).append(found)
    rows = {name: np.array(found, dtype=np.float64) for name, found in sums.items()}
    for name, found in rows.items():
        width = 4 if name in PERPLEXITIES else compute_statistics([name], ())[name].shape[1]
        if found.shape[1:] != (width,):
            raise ValueError(f"{path.name}: {name} has not {width} numbers a dialogue")
    return Statistics(ids, rows)


def _lines(made) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
