"""The options of mode=report, and the runs that it compares."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from dialog_trainer.config.fields import FreeText, Name, Positive, Record, Text, Words, setting


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


# Of a run that was saved before there were these options.
NO_REPORT = {"metric": None, "baseline": None, "equivalence_margin": None, "out": None}
