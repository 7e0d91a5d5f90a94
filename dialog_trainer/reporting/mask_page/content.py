"""The content of the mask page: sequences with the weights of their spans, the schedule, tables and figures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

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
    timeline: ScheduleTimeline,
    points: Sequence[RoleWeights],
    kept: bool,
) -> dict[str, Any]:
    """One sequence as `render_mask_page` takes it, without its name.

    `ids` and `texts` `(T,)` are its tokens. A sequence that is not `kept` for training weighs 0. The tag `untrained`
    marks a sequence that has no trained token at one of `points`.
    """
    has_random = any(weights.random_roles for _, weights in timeline.kinds)
    factors = _weight_factors(mask, spans, random_roles=False) * kept
    random_factors = _weight_factors(mask, spans, random_roles=True) * kept if has_random else None
    described, position = [], 0
    for span, length in enumerate(spans.lengths.tolist()):
        described.append(
            {
                "role": Role(int(spans.roles[span])).name.lower(),
                "turn": int(spans.turns[span]),
                "position": position,
                "ids": ids[position : position + length],
                "texts": texts[position : position + length],
                "lost": int(spans.lost[span]),
                "weight": factors[span].tolist(),
                "random_weight": None if random_factors is None else random_factors[span].tolist(),
            }
        )
        position += length
    turns = [span for span in described if span["role"] not in ("format", "end")]
    trained = kept and all((mask.weigh_spans(spans, weights) * spans.lengths).any() for weights in points)
    return {
        "tokens": len(ids),
        "lost_tokens": sum(span["lost"] for span in turns),
        "lost_turns": sum(not span["ids"] for span in turns),
        "note": "" if kept else "not used for training",
        "tags": [tag for tag, holds in (("cut", spans.lost.any()), ("untrained", not trained)) if holds],
        "spans": described,
    }


def build_page_content(
    title: str,
    facts: Sequence[tuple[str, str]],
    progress: Sequence[float],
    mask: Mask,
    timeline: ScheduleTimeline,
    sequences: Iterable[dict[str, Any]],
    tables: Sequence[TextTable],
    figures: Sequence[tuple[str, bytes, bytes]],
) -> dict[str, Any]:
    """The argument of `render_mask_page`. `figures`: the title, and the PNG for a light and for a dark page."""
    return {
        "title": title,
        "facts": [list(fact) for fact in facts],
        "points": list(progress),
        "schedule_steps": timeline.schedule_steps,
        "schedule": _sample_schedule(mask, timeline),
        "sequences": list(sequences),
        "tables": [{"title": table.title, "head": table.head, "rows": table.rows} for table in tables],
        "figures": [
            {"title": name, "alt": name, "png": _base64(light), "dark_png": _base64(dark)}
            for name, light, dark in figures
        ],
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _weight_factors(mask: Mask, spans: TurnSpans, random_roles: bool) -> np.ndarray:
    """`(R, 3)`: the weight of a span is `[0] * user + [1] * assistant + [2]`, for any weights of the two roles."""
    constant, user, assistant = (
        mask.weigh_spans(spans, RoleWeights(*weights, random_roles)) for weights in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    return np.stack([user - constant, assistant - constant, constant], axis=1).astype(np.float64).round(6)


def _sample_schedule(mask: Mask, timeline: ScheduleTimeline) -> list[list[Any]]:
    """`[progress, user weight, assistant weight, drawn at random]` wherever they change, on a grid of steps."""
    steps = {round(index * timeline.schedule_steps / MAX_SCHEDULE_POINTS) for index in range(MAX_SCHEDULE_POINTS + 1)}
    entries: list[list[Any]] = []
    for step in sorted(steps | {timeline.first_change, timeline.last_change, timeline.final_from_step}):
        progress = timeline.progress(step)
        weights = mask.weigh_roles(progress)
        if not entries or entries[-1][1:] != [weights.user, weights.assistant, weights.random_roles]:
            entries.append([progress, weights.user, weights.assistant, weights.random_roles])
    return entries
