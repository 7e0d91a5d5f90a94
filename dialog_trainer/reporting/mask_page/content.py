"""Sequences with the weight of each run at any point of the training: what the terminal and the page show."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.timeline import ScheduleTimeline
from dialog_trainer.reporting.tables import TextTable
from dialog_trainer.types import Role, TurnSpans

MAX_SCHEDULE_POINTS = 1_000


def describe_sequence(
    ids: list[int],
    texts: list[str],
    spans: TurnSpans,
    mask: Mask,
    whole: ScheduleTimeline,
    points: Sequence[RoleWeights],
    kept: bool,
) -> dict:
    """One sequence as `mask_page` takes it, but for its name; what is not `kept` for training weighs nothing.

    The tag `untrained` says that at one of `points` it has no trained token.
    """
    by_lot = any(weights.by_lot for _, weights in whole.kinds)
    plain = _coefficients(mask, spans, by_lot=False) * kept
    lots = _coefficients(mask, spans, by_lot=True) * kept if by_lot else None
    shown, first = [], 0
    for run, length in enumerate(spans.lengths.tolist()):
        shown.append(
            {
                "role": Role(int(spans.roles[run])).name.lower(),
                "turn": int(spans.turns[run]),
                "position": first,
                "ids": ids[first : first + length],
                "texts": texts[first : first + length],
                "lost": int(spans.lost[run]),
                "weight": plain[run].tolist(),
                "lot": None if lots is None else lots[run].tolist(),
            }
        )
        first += length
    turns = [run for run in shown if run["role"] not in ("start", "end")]
    trained = kept and all((mask.span_weights(spans, at) * spans.lengths).any() for at in points)
    return {
        "tokens": len(ids),
        "lost_tokens": sum(run["lost"] for run in turns),
        "lost_turns": sum(not run["ids"] for run in turns),
        "note": "" if kept else "left out of training",
        "tags": [tag for tag, holds in (("cut", spans.lost.any()), ("untrained", not trained)) if holds],
        "runs": shown,
    }


def build_page_content(
    title: str,
    facts: Sequence[tuple[str, str]],
    progress: Sequence[float],
    mask: Mask,
    whole: ScheduleTimeline,
    sequences: Iterable[dict],
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
        "dialogues": list(sequences),
        "tables": [{"title": table.title, "head": table.head, "rows": table.rows} for table in tables],
        "figures": [
            {"title": name, "alt": name, "png": base64.b64encode(path.read_bytes()).decode("ascii")}
            for name, path in figures
        ],
    }


def _coefficients(mask: Mask, spans: TurnSpans, by_lot: bool) -> np.ndarray:
    """`(R, 3)`: a run weighs `[0]·user + [1]·assistant + [2]`, for any weights of the roles."""
    fixed, user, assistant = (
        mask.span_weights(spans, RoleWeights(*of_roles, by_lot)) for of_roles in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    return np.stack([user - fixed, assistant - fixed, fixed], axis=1).astype(np.float64).round(6)


def _schedule(mask: Mask, whole: ScheduleTimeline) -> list[list]:
    """`[progress, user's weight, assistant's, by lot]` wherever they change, on a grid of steps."""
    steps = {round(index * whole.schedule_steps / MAX_SCHEDULE_POINTS) for index in range(MAX_SCHEDULE_POINTS + 1)}
    entries: list[list] = []
    for step in sorted(steps | {whole.first_change, whole.final_from_step}):
        progress = whole.progress(step)
        at = mask.at(progress)
        if not entries or entries[-1][1:] != [at.user, at.assistant, at.by_lot]:
            entries.append([progress, at.user, at.assistant, at.by_lot])
    return entries
