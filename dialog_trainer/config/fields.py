"""Building blocks of the schema: types with their range, the metadata of a field, and the words for a range.

A range is written once, in the annotation of a field; `describe` derives from it the words that messages, `--help` and the
comments of `conf/` use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from dialog_trainer.config.frozen import FrozenMapping, freeze

OnResume = Literal["free", "inexact", "refused"]
# Marks a field without a meaning of its own for runs saved before it existed: there it must be present.
REQUIRED: Any = object()
Curve = Literal[
    "train_loss", "validation_loss", "lr", "grad_norm", "tokens_per_second", "user_weight", "assistant_weight"
]


@dataclass(frozen=True, slots=True)
class Words:
    """The words for a range that the annotation alone cannot give."""

    text: str


@dataclass(frozen=True, slots=True)
class Later:
    """Names that are kept free for a later version."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreList:
    """A list of scores; the known names come from the metric registry."""


@dataclass(frozen=True, slots=True)
class FreeText:
    """A text in which the signs of Hydra's grammar have no meaning, as a path."""


class Record(BaseModel):
    """A part of the configuration: strict types, immutable, no key that the schema does not name."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True, populate_by_name=True
    )


@dataclass(frozen=True, slots=True)
class Meta:
    """What the schema says about a field besides its type.

    `on_resume`: what a change means for a resumed run: `free` (continues), `inexact` (continues, not exactly as the run
    would have) or `refused`. `when_absent`: the meaning of the field in a run saved before it existed.
    `per_command`: the field belongs to the command, not to the run. `optional`: it may be left out, and conf/ does.
    """

    on_resume: OnResume = "free"
    when_absent: Any = REQUIRED
    per_command: bool = False
    optional: bool = False


def setting(
    description: str,
    on_resume: OnResume = "free",
    *,
    when_absent: Any = REQUIRED,
    per_command: bool = False,
    optional: bool = False,
    alias: str | None = None,
) -> Any:
    """A field of a record, with its one-line description (with its unit) and metadata."""
    meta = Meta(on_resume, when_absent, per_command, optional)
    if optional:
        return Field(default=None, description=description, json_schema_extra={"meta": meta})  # type: ignore[dict-item]
    return Field(description=description, alias=alias, json_schema_extra={"meta": meta})  # type: ignore[dict-item]


def _read_number(value: Any) -> Any:
    """A quoted number is the number that it shows."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _read_whole(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() and len(value) < 30:
        return int(value)
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is blank")
    return value


def _read_day(value: str) -> str:
    return date.fromisoformat(value).isoformat()


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A list as a tuple. Raises `ValueError` for anything else."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("is not a list")
    return tuple(value)


def _read_device(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str) and value in ("auto", "cpu", "mps", "cuda"):
        return value
    indices = as_tuple(value)
    if not indices or not all(type(index) is int and index >= 0 for index in indices):
        raise ValueError("is not a list of devices")
    if len(set(indices)) < len(indices):
        raise ValueError("names a device twice")
    return indices


def _read_temperature(value: Any) -> float:
    value = _read_number(value)
    if type(value) in (int, float) and (value == 0 or 0.01 <= value <= 10):
        return float(value)
    raise ValueError("is out of range")


def _numbers(items: tuple[Any, ...]) -> tuple[float, ...]:
    if not all(type(item) in (int, float) for item in items):
        raise ValueError("holds something that is not a number")
    return tuple(map(float, items))


def _read_betas(value: Any) -> tuple[float, float]:
    betas = _numbers(as_tuple(value))
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError("is out of range")
    return betas[0], betas[1]


def _read_points(value: Any) -> tuple[tuple[float, ...], ...]:
    points = tuple(_numbers(as_tuple(point)) for point in as_tuple(value))
    if not points or not all(len(point) in (2, 3) for point in points):
        raise ValueError("is not a list of points")
    return points


def _read_weights(value: Any) -> FrozenMapping:
    if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) for key in value):
        raise ValueError("is not a dict of scores")
    if not all(type(weight) in (int, float) and math.isfinite(weight) for weight in value.values()):
        raise ValueError("has a weight that is no number")
    return FrozenMapping({key: float(weight) for key, weight in value.items()})


MIN_MAX_LEN = 8
MAX_STEPS = 10_000_000
MAX_COUNT = 2**63 - 1

Whole = Annotated[int, BeforeValidator(_read_whole), Field(strict=True)]
Number = Annotated[float, BeforeValidator(_read_number), Field(strict=True, allow_inf_nan=False)]
Count = Annotated[Whole, Ge(1)]
CountOr0 = Annotated[Whole, Ge(0)]
Steps = Annotated[Whole, Ge(1), Le(MAX_STEPS)]
Length = Annotated[Whole, Ge(MIN_MAX_LEN)]
Positive = Annotated[Number, Gt(0)]
NotNegative = Annotated[Number, Ge(0)]
Fraction = Annotated[Number, Ge(0), Le(1)]
BelowOne = Annotated[Number, Ge(0), Lt(1)]
HeldOut = Annotated[Number, Gt(0), Lt(1)]
Probability = Annotated[Number, Gt(0), Le(1)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True), AfterValidator(_not_blank)]
Day = Annotated[str, AfterValidator(_read_day), Words("a day, as 2026-01-31")]
# A name or path, which the command line takes as it was typed.
Name = Annotated[Text, FreeText()]
Texts = Annotated[tuple[Text, ...], BeforeValidator(as_tuple)]
Scores = Annotated[tuple[Text, ...], BeforeValidator(as_tuple), ScoreList(), Words("a list of scores")]
Device = Annotated[
    str | tuple[int, ...],
    PlainValidator(_read_device),
    Words("auto, cpu, mps, cuda or a list of CUDA devices, each once, as [0] or [0,1]"),
]
FlagOrAuto = Annotated[Flag | Literal["auto"], Words("auto, true or false")]
MicroBatchTokens = Annotated[Length | Literal["auto"], Words(f"auto, or a whole number of at least {MIN_MAX_LEN}")]
LearningRate = Annotated[Positive | Literal["auto"], Words("a number above 0, or auto")]
Interval = Annotated[Count | Literal["epoch"], Words("a whole number of at least 1, or epoch")]
Temperature = Annotated[float, PlainValidator(_read_temperature), Words("a number: 0, or from 0.01 to 10")]
Betas = Annotated[
    tuple[float, float], PlainValidator(_read_betas), Words("two numbers from 0 to below 1, as [0.9,0.999]")
]
Points = Annotated[
    tuple[tuple[float, ...], ...],
    PlainValidator(_read_points),
    Words(
        "a list of points, each [progress, user's weight] or [progress, user's, assistant's weight], "
        "as [[0,1],[0.5,0.1]]"
    ),
]
ScoreWeights = Annotated[
    FrozenMapping,
    PlainValidator(_read_weights),
    Words("a dict of scores and weights, as {bleu2: 1}"),
    ScoreList(),
]
Arguments = Annotated[FrozenMapping, PlainValidator(freeze)]
