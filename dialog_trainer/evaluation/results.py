"""Files of mode=validate: scores.json, scores.md, replies.jsonl, and dialogues.jsonl for later comparisons."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from dialog_trainer.errors import CheckpointError
from dialog_trainer.evaluation.analysis import Statistics
from dialog_trainer.evaluation.loss_names import ROLE_NAMES
from dialog_trainer.files import open_to_read, read_bounded, rename, write_atomically
from dialog_trainer.metrics.registry import Metrics, compute_statistics
from dialog_trainer.types import Reply

SCORES_FILE, DIALOGUES_FILE = "scores.json", "dialogues.jsonl"
MAX_SCORES_BYTES = 2**26
# The keys of scores.json that a comparison reads, with their types.
_REQUIRED = {"checkpoint": str, "split": str, "protocol": str, "data": str, "dialogues": int, "signature": str}


def reply_row(reply: Reply) -> dict[str, Any]:
    """A reply as a row of replies.jsonl."""
    return {
        "dialogue_id": reply.dialogue_id,
        "turn_index": reply.turn_index,
        "history": list(reply.history),
        "reply": reply.text,
        "reference": reply.reference,
        "ended": reply.ended,
    } | ({"references": list(reply.references)} if reply.references else {})


def write_scores(
    run: Path,
    folder: str,
    scored: Mapping[str, Any],
    metrics: Metrics,
    replies: Sequence[Reply],
    statistics: Statistics,
    page: str,
    facts: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes the four files into the `folder` of a run, each atomically and scores.json last; `page`: that of scores.md.

    `facts` are further keys of the rows of dialogues.jsonl, by dialogue.
    """
    names = list(statistics.rows)
    by_dialogue: dict[str, dict[str, list[float]]] = {}
    # Perplexities first: they have all dialogues, in the order in which each score has its own.
    for name in sorted(names, key=lambda name: -len(statistics.ids[name])):
        for identifier, row in zip(statistics.ids[name], statistics.rows[name].tolist(), strict=True):
            by_dialogue.setdefault(identifier, {})[name] = row
    reply_rows = compute_statistics(names, replies, metrics)
    write_atomically(
        run,
        f"{folder}/replies.jsonl",
        _json_lines(
            reply_row(reply) | {"statistics": {name: rows[index].tolist() for name, rows in reply_rows.items()}}
            for index, reply in enumerate(replies)
        ),
    )
    write_atomically(
        run,
        f"{folder}/{DIALOGUES_FILE}",
        _json_lines(
            {"dialogue_id": identifier, "statistics": by_dialogue.get(identifier, {}), **facts.get(identifier, {})}
            for identifier in dict.fromkeys([*facts, *by_dialogue])
        ),
    )
    write_atomically(run, f"{folder}/scores.md", page)
    write_atomically(run, f"{folder}/{SCORES_FILE}", json.dumps(scored, indent=2, ensure_ascii=False) + "\n")


def describe_dialogues(
    ids: Sequence[str], role_sums: np.ndarray, clean_ids: Collection[str] | None
) -> dict[str, dict[str, Any]]:
    """The `facts` of `write_scores`: nats and tokens by role, of `role_sums` `(D, 5, 2)`, and which dialogues are also in
    the training split (`clean_ids` are the others; None: all)."""
    facts: dict[str, dict[str, Any]] = {}
    for identifier, sums in zip(ids, role_sums, strict=True):
        facts[identifier] = {"losses": {f"{name}_nll": sums[role].tolist() for role, name in ROLE_NAMES.items()}}
        if clean_ids is not None and identifier not in clean_ids:
            facts[identifier]["contaminated"] = True
    return facts


def archive_scores(run: Path, folder: str, scored: Mapping[str, Any]) -> Path | None:
    """Renames `folder` to `<name>-1`, `<name>-2` ... if its scores are of another checkpoint, other data or another
    signature than `scored`; returns the new path."""
    existing = _read_existing(run, folder)
    same = ("checkpoint", "signature", "data")
    if existing is None or (isinstance(existing, dict) and all(existing.get(key) == scored[key] for key in same)):
        return None
    archive = next(name for name in (f"{folder}-{number}" for number in count(1)) if not os.path.lexists(run / name))
    rename(run, folder, archive)
    return run / archive


def has_scores(run: Path, folder: str, expected: Mapping[str, Any]) -> bool:
    """Whether `folder` has scores with these keys and values."""
    existing = _read_existing(run, folder)
    return isinstance(existing, dict) and all(existing.get(key) == value for key, value in expected.items())


def _read_existing(run: Path, folder: str) -> object:
    """The content of scores.json; None where there is none that can be read."""
    try:
        return json.loads(read_bounded(run, f"{folder}/{SCORES_FILE}", MAX_SCORES_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def read_scores(folder: Path, metrics: Metrics) -> tuple[dict[str, Any], Statistics]:
    """The scores in a folder and the statistics by dialogue of those in `metrics`. Raises `CheckpointError`."""
    try:
        scored = json.loads(read_bounded(folder, SCORES_FILE, MAX_SCORES_BYTES))
        missing = [key for key, kind in _REQUIRED.items() if not isinstance(scored.get(key), kind)]
        if missing:
            raise ValueError(f"{SCORES_FILE} has no {', '.join(missing)}")
        return scored, _read_statistics(folder, metrics)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"compare_with={folder}: {_reason(error)}; run mode=validate on that run first, with the same split and metrics"
        ) from None


def read_comparable_scores(
    place: Path, expected: Mapping[str, Any], metrics: Metrics
) -> tuple[dict[str, Any], Statistics]:
    """As `read_scores`, of a run or of a folder of scores, if they are of the same turns of the same dialogues.

    `expected` holds `split`, `protocol`, `data`, `dialogues` and `signature` (here that of the protocol) of our scores;
    Scores that are not in `metrics` (a metric of the other run's own) are left out. Raises `CheckpointError` where theirs do not fit.
    """
    folder = (
        place if (place / SCORES_FILE).is_file() else place / "validation" / expected["split"] / expected["protocol"]
    )
    scored, statistics = read_scores(folder, metrics)
    if any(scored[key] != expected[key] for key in ("split", "protocol", "data")):
        raise CheckpointError(
            f"compare_with={folder}: those scores are of split {scored['split']} by protocol {scored['protocol']}, of data "
            f"{scored['data'][:12]}; these would be of {expected['split']}, {expected['protocol']}, {expected['data'][:12]}"
        )
    our_roles, their_roles = _replying_roles(expected["signature"]), _replying_roles(scored["signature"])
    if our_roles != their_roles:
        raise CheckpointError(
            f"compare_with={folder}: those replies are other turns of the dialogues ({their_roles} instead of "
            f"{our_roles}): pass mask_schedule.trained_role as in that run"
        )
    if scored["dialogues"] != expected["dialogues"]:
        raise CheckpointError(
            f"compare_with={folder}: those scores are of {scored['dialogues']:,} dialogues; these would be of "
            f"{expected['dialogues']:,}: pass metrics.max_dialogues={scored['dialogues']}"
        )
    return scored, statistics


def _replying_roles(signature: str) -> str:
    return next((part for part in signature.split("|") if part.startswith("role:")), "role:all")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        missing = Path(error.filename).name
        return f"has no {missing if missing in (SCORES_FILE, DIALOGUES_FILE) else 'scores'} yet"
    return f"holds no scores of this version ({error})"


def _read_statistics(folder: Path, metrics: Metrics) -> Statistics:
    ids: dict[str, list[str]] = {}
    sums: dict[str, list[list[float]]] = {}
    with open_to_read(folder, DIALOGUES_FILE) as file:
        for row in map(json.loads, file):
            for name, numbers in row["statistics"].items():
                if name not in metrics:
                    continue
                ids.setdefault(name, []).append(row["dialogue_id"])
                sums.setdefault(name, []).append(numbers)
    rows = {name: np.array(numbers, dtype=np.float64) for name, numbers in sums.items()}
    for name, array in rows.items():
        width = 4 if metrics[name].from_loss else compute_statistics([name], (), metrics)[name].shape[1]
        if array.shape[1:] != (width,):
            raise ValueError(f"{DIALOGUES_FILE}: {name} has not {width} numbers a dialogue")
    return Statistics(ids, rows)


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
