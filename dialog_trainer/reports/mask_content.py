"""Sequences with the weight of each run at any point of the training: what the terminal and the page show."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dialog_trainer.masking.mask import Mask
from dialog_trainer.masking.outline import Outline
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.records import Role, Runs
from dialog_trainer.reports.mask_tables import TextTable
from dialog_trainer.reports.mask_text import ShownRun

MAX_SCHEDULE_POINTS = 1_000


@dataclass(frozen=True, slots=True)
class ShownSequence:
    """A sequence, part `part` of `parts` of the dialogue `id`, and its runs; the page's `tags` say why it is shown."""

    id: str
    part: int
    parts: int
    runs: list[ShownRun]
    coefficients: list[list[float]]
    by_lot: list[list[float]] | None
    tags: list[str]
    note: str

    def title(self) -> str:
        part = f", part {self.part} of {self.parts}" if self.parts > 1 else ""
        note = f", {self.note}" if self.note else ""
        return f"dialogue {self.id}{part}: {sum(len(run.ids) for run in self.runs):,} tokens{note}"


def shown_sequences(
    ids: np.ndarray,
    runs: Runs,
    mask: Mask,
    points: Sequence[RoleWeights],
    pieces: Callable[[list[int]], list[str]],
    *,
    names: Sequence[tuple[str, int, int]],
    longest: Sequence[bool],
    kept: np.ndarray,
    with_lots: bool,
) -> Iterator[ShownSequence]:
    """Of `columns` of a table: each sequence, with its name `(id, part, parts)`, whether its dialogue is of the longest,
    and whether it is `kept` for training: what is not weighs nothing."""
    trains = np.repeat(kept, runs.counts)
    weights = np.array([mask.run_weights(runs, at) for at in points]) * trains
    plain = _coefficients(mask, runs, by_lot=False) * trains[:, None]
    lots = _coefficients(mask, runs, by_lot=True) * trains[:, None] if with_lots else None
    ends = np.cumsum(runs.lengths)
    sequence_ends = np.cumsum(runs.counts)
    for number, last in enumerate(sequence_ends):
        first = last - runs.counts[number]
        start = ends[first] - runs.lengths[first]
        shown = []
        for run in range(first, last):
            part = ids[ends[run] - runs.lengths[run] : ends[run]].tolist()
            shown.append(
                ShownRun(
                    Role(int(runs.roles[run])),
                    int(runs.turns[run]),
                    int(ends[run] - runs.lengths[run] - start),
                    part,
                    pieces(part),
                    int(runs.lost[run]),
                    weights[:, run].tolist(),
                )
            )
        tags = {
            "cut": runs.lost[first:last].any(),
            "untrained": not (weights[:, first:last] * runs.lengths[first:last]).any(axis=1).all(),
            "longest": longest[number],
        }
        yield ShownSequence(
            *names[number],
            shown,
            plain[first:last].tolist(),
            None if lots is None else lots[first:last].tolist(),
            [tag for tag, holds in tags.items() if holds],
            "" if kept[number] else "left out of training",
        )


def page_content(
    title: str,
    facts: Sequence[tuple[str, str]],
    progress: Sequence[float],
    mask: Mask,
    whole: Outline,
    sequences: Sequence[ShownSequence],
    tables: Sequence[TextTable],
    figures: Sequence[tuple[str, Path]],
) -> dict:
    """What `mask_page` takes."""
    return {
        "title": title,
        "facts": [list(fact) for fact in facts],
        "points": list(progress),
        "schedule_steps": whole.schedule_steps,
        "schedule": _schedule(mask, whole),
        "dialogues": [_sequence(sequence) for sequence in sequences],
        "tables": [{"title": table.title, "head": table.head, "rows": table.rows} for table in tables],
        "figures": [
            {"title": name, "alt": name, "png": base64.b64encode(path.read_bytes()).decode("ascii")}
            for name, path in figures
        ],
    }


def _sequence(sequence: ShownSequence) -> Mapping:
    runs = []
    lots = sequence.by_lot or [None] * len(sequence.runs)
    for run, coefficients, lot in zip(sequence.runs, sequence.coefficients, lots, strict=True):
        runs.append(
            {
                "role": run.role.name.lower(),
                "turn": run.turn,
                "position": run.position,
                "ids": run.ids,
                "texts": run.pieces,
                "lost": run.lost,
                "weight": coefficients,
                "lot": lot,
            }
        )
    turns = [run for run in sequence.runs if run.role not in (Role.START, Role.END)]
    return {
        "id": sequence.id,
        "part": sequence.part,
        "parts": sequence.parts,
        "tokens": sum(len(run.ids) for run in sequence.runs),
        "lost_tokens": sum(run.lost for run in turns),
        "lost_turns": sum(not run.ids for run in turns),
        "note": sequence.note,
        "tags": sequence.tags,
        "runs": runs,
    }


def _coefficients(mask: Mask, runs: Runs, by_lot: bool) -> np.ndarray:
    """`(R, 3)`: a run weighs `[0]·user + [1]·assistant + [2]`, for any weights of the roles."""
    fixed, user, assistant = (
        mask.run_weights(runs, RoleWeights(*of_roles, by_lot)) for of_roles in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    return np.stack([user - fixed, assistant - fixed, fixed], axis=1).astype(np.float64).round(6)


def _schedule(mask: Mask, whole: Outline) -> list[list]:
    """`[progress, user's weight, assistant's, by lot]` wherever they change, on a grid of steps."""
    steps = {round(index * whole.schedule_steps / MAX_SCHEDULE_POINTS) for index in range(MAX_SCHEDULE_POINTS + 1)}
    entries: list[list] = []
    for step in sorted(steps | {whole.first_change, whole.final_from_step}):
        progress = whole.progress(step)
        at = mask.at(progress)
        if not entries or entries[-1][1:] != [at.user, at.assistant, at.by_lot]:
            entries.append([progress, at.user, at.assistant, at.by_lot])
    return entries
