"""Reads what mode=validate wrote into a run, as a stranger's files: scores, and their jackknife pseudo-values by dialogue."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dialog_trainer.errors import CheckpointError
from dialog_trainer.evaluation.loss_names import ROLE_NAMES
from dialog_trainer.evaluation.results import DIALOGUES_FILE, MAX_SCORES_BYTES, SCORES_FILE
from dialog_trainer.files import list_directory, read_bounded, sha256_of_texts
from dialog_trainer.metrics.bootstrap import Value
from dialog_trainer.metrics.ratios import divide
from dialog_trainer.metrics.registry import SCORES
from dialog_trainer.reporting.report.statistics import pseudo_values
from dialog_trainer.tracking.jsonl import MAX_VALUE, read_rows

MAX_DIALOGUES = 1_000_000
# Numbers of one statistic of a dialogue; NIST's have 11.
MAX_WIDTH = 64
SPLITS = ("test", "validation", "train")
PROTOCOLS = ("response", "all_turns", "rollout", "original")
# Scores that are functions of sums by dialogue.
_VALUES: dict[str, Value] = {
    **{f"{role}_nll": divide for role in ROLE_NAMES.values()},
    **{name: score.value for name, score in SCORES.items() if score.value is not None},
}
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Names = Annotated[str, Field(max_length=4000)]


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class ScoreWithInterval(_Plain):
    """A score and the ends of its 95 % bootstrap interval over dialogues."""

    value: _Number | None
    low: _Number | None
    high: _Number | None


class CleanPart(_Plain):
    """The scores of the dialogues that are not also in the training split."""

    dialogues: int
    scores: dict[str, ScoreWithInterval]
    baselines: dict[str, dict[str, _Number | None]] = {}


class ScoresFile(_Plain):
    """`scores.json`."""

    step: int
    split: _Names
    protocol: _Names
    signature: _Names
    data: _Names
    dialogues: int
    replies: int
    losses: dict[str, _Number | int | None]
    scores: dict[str, ScoreWithInterval]
    baselines: dict[str, dict[str, _Number | None]] = {}
    clean: CleanPart | None = None


@dataclass(frozen=True, slots=True)
class DialogueScores:
    """Pseudo-values `(G,)` of a score by dialogue, and a digest of the dialogues: equal ones can be paired."""

    values: np.ndarray
    digest: str


@dataclass(frozen=True, slots=True)
class ScoredSplit:
    """The scores of one checkpoint on one split. `values` are those of the dialogues that are not in the training split,
    where it is known that some are (`left_out` of them); `dialogues` has the scores that are functions of sums."""

    file: ScoresFile
    values: Mapping[str, float]
    dialogues: Mapping[str, DialogueScores]
    left_out: int

    @property
    def num_dialogues(self) -> int:
        """Those that `values` are from."""
        return self.file.clean.dialogues if self.left_out and self.file.clean else self.file.dialogues

    @property
    def place(self) -> str:
        return f"{self.file.split}/{self.file.protocol}"


def read_scored_splits(run: Path) -> tuple[list[ScoredSplit], list[str]]:
    """All scores of a run, and a note on each folder that cannot be read."""
    found, notes = [], []
    for place in (f"validation/{split}/{protocol}" for split in SPLITS for protocol in PROTOCOLS):
        try:
            if SCORES_FILE in list_directory(run, place):
                found.append(_read_split(run, place))
        except (OSError, CheckpointError, ValueError, IndexError, ArithmeticError) as error:
            reason = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
            notes.append(f"{run / place}: the scores cannot be read ({reason}); run mode=validate on it again")
    return found, notes


def read_scores_file(run: Path, place: str) -> ScoresFile:
    """`scores.json` in a folder of a run. Raises `OSError`, or `ValidationError` where it is none."""
    return ScoresFile.model_validate_json(read_bounded(run, f"{place}/{SCORES_FILE}", MAX_SCORES_BYTES))


def _read_split(run: Path, place: str) -> ScoredSplit:
    file = read_scores_file(run, place)
    ids, sums, contaminated = _read_dialogues(run / place / DIALOGUES_FILE)
    whole = {name: float(value) for name, value in file.losses.items() if value is not None and name in _VALUES}
    whole |= {name: score.value for name, score in file.scores.items() if score.value is not None}
    values, dialogues = whole, {}
    if contaminated:  # of what has no sums, the value that mode=validate computed
        clean = file.clean.scores if file.clean else {}
        values = {name: score.value for name, score in clean.items() if score.value is not None}
    for name, rows in sums.items():
        kept = [index for index, one in enumerate(ids[name]) if one not in contaminated]
        if not kept or name not in whole:
            continue
        value = _VALUES[name](rows[kept].sum(0))
        if contaminated:
            values[name] = value
        if len(kept) > 1:
            digest = sha256_of_texts(*(ids[name][index] for index in kept))
            dialogues[name] = DialogueScores(pseudo_values(rows[kept], _VALUES[name]), digest)
    values = {name: values[name] for name in whole if name in values and abs(values[name]) < MAX_VALUE}
    dialogues = {name: one for name, one in dialogues.items() if np.all(np.abs(one.values) < MAX_VALUE)}
    return ScoredSplit(file, values, dialogues, len(contaminated))


def _read_dialogues(path: Path) -> tuple[dict[str, list[str]], dict[str, np.ndarray], set[str]]:
    """Of each known score the ids of its dialogues and their sums `(D, K)`; and the contaminated dialogues."""
    ids: dict[str, list[str]] = {}
    sums: dict[str, array[float]] = {}
    contaminated: set[str] = set()
    for count, row in enumerate(read_rows(path)):
        if count >= MAX_DIALOGUES:
            raise ValueError(f"{path.name} has more than {MAX_DIALOGUES:,} dialogues")
        identifier, losses, statistics = row.get("dialogue_id"), row.get("losses", {}), row.get("statistics")
        if not (isinstance(identifier, str) and isinstance(losses, dict) and isinstance(statistics, dict)):
            raise ValueError(f"{path.name} has a row without an id and statistics")
        if row.get("contaminated") is True:
            contaminated.add(identifier)
        for name, numbers in {**losses, **statistics}.items():
            if name in _VALUES:
                sums.setdefault(name, array("d")).extend(_check_numbers(numbers, name))
                ids.setdefault(name, []).append(identifier)
    arrays = {name: np.frombuffer(numbers, dtype=np.float64) for name, numbers in sums.items()}
    uneven = [name for name, numbers in arrays.items() if len(numbers) % len(ids[name])]
    if uneven:
        raise ValueError(f"{path.name}: {uneven[0]} has not as many numbers in each row")
    return ids, {name: numbers.reshape(len(ids[name]), -1) for name, numbers in arrays.items()}, contaminated


def _check_numbers(numbers: object, name: str) -> list[float]:
    if (
        isinstance(numbers, list)
        and 0 < len(numbers) <= MAX_WIDTH
        and all(type(one) in (int, float) and abs(one) < MAX_VALUE for one in numbers)
    ):
        return numbers
    raise ValueError(f"{DIALOGUES_FILE}: {name} has no list of numbers")
