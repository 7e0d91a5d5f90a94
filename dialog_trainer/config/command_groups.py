"""Groups of options that say how a command works, and are no part of a run: of a resume, a sweep (-m) and a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from dialog_trainer.config.fields import (
    Count,
    Flag,
    FlagOrAuto,
    FreeText,
    Name,
    Positive,
    Record,
    Text,
    Words,
    as_tuple,
    setting,
)
from dialog_trainer.config.frozen import FrozenMapping


def _read_list(value: Any) -> tuple[FrozenMapping, ...]:
    entries = as_tuple(value)
    if not all(
        isinstance(entry, Mapping) and entry and all(isinstance(key, str) for key in entry) for entry in entries
    ):
        raise ValueError("holds something that is no dict of options")
    return tuple(map(FrozenMapping, entries))


def _read_runs(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _read_value(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else value


Runs = Annotated[
    tuple[Text, ...],
    BeforeValidator(_read_runs),
    FreeText(),
    Words("a folder, a pattern of folders as a/*-seed_0, or a list of these, as [a,b]"),
]
Value = Annotated[Text, BeforeValidator(_read_value), Words("a text or a number")]


class ResumeConfig(Record):
    in_place: Flag = setting(
        "From an older checkpoint, as the best one: go on in the folder of the run and remove what came after. false: in a "
        "new folder <name>-from-<step>."
    )


class SweepConfig(Record):
    dry_run: Flag = setting("Show the jobs of the sweep, their data and what they cost, and stop there.")
    list: Annotated[
        tuple[FrozenMapping, ...],
        PlainValidator(_read_list),
        Words("a list of dicts, as [{optim.lr0: 1e-3, batch_size: 16}, {optim.lr0: 3e-3, batch_size: 64}]"),
    ] = setting("Options that belong together; each of these dicts is combined with all other swept values.")
    early_stopping: Flag = setting(
        "Let patience stop jobs early. false: all jobs make all their steps, so that they can be compared."
    )
    max_hours: Positive | None = setting(
        "Hours after which all jobs stop with a checkpoint; the same command goes on. null: no limit."
    )
    fork: FlagOrAuto = setting(
        "Train once what jobs share that differ in their mask schedule alone, up to the step at which they differ. auto: "
        "where that is at least a tenth of a job; true: also where it is less."
    )
    keep_at: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Words("a list of whole numbers of at least 1")] = (
        setting("Of a job: updates after which it keeps, in branches/, what a run needs that forks from it there.")
    )
    fork_from: Name | None = setting("Of a job: the branch of another run that it starts from. null: from the start.")


# Of a run that was saved before there were these options.
NO_SWEEP = {
    "dry_run": False, "list": (), "early_stopping": False, "max_hours": None, "fork": "auto", "keep_at": (), "fork_from": None,
}  # fmt: skip


class ReportConfig(Record):
    metric: Text | None = setting(
        "Loss or score that the report is about, as bleu2. null: the loss of the trained role, on a split that all runs were "
        "scored on, else of the last validation."
    )
    baseline: Value | None = setting(
        "Value of the varied setting from which the others differ, as 0.5. null: the first one."
    )
    equivalence_margin: Positive | None = setting(
        "Difference of report.metric, in its unit, within which two settings count as equivalent (two one-sided tests). "
        "null: no such test."
    )
    out: Name | None = setting("Folder of the report. null: the folder of runs, where that is one.")


# The same for the report.
NO_REPORT = {"metric": None, "baseline": None, "equivalence_margin": None, "out": None}
