"""A report on runs: everything that its pages show, and the writing of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialog_trainer.config.command_groups import ReportConfig
from dialog_trainer.config.table import show
from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import write_atomically
from dialog_trainer.reporting.report.arms import Design, find_design
from dialog_trainer.reporting.report.collect import RunRecord
from dialog_trainer.reporting.report.comparison import (
    Comparison,
    choose_primary,
    compare_arms,
    find_warnings,
    list_quantities,
)
from dialog_trainer.reporting.report.page import render_page
from dialog_trainer.reporting.report.sentences import build_headline, build_notes
from dialog_trainer.reporting.report.tables import (
    build_full_table,
    build_overview_tables,
    build_primary_table,
    build_runs_table,
    render_csv,
)
from dialog_trainer.reporting.tables import TextTable, render_markdown_table


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says. `comparisons` begin with the primary one; `absent` are jobs whose folder cannot be read, with the
    reason; `warnings` say why runs cannot be compared, or what is missing."""

    title: str
    runs: tuple[RunRecord, ...]
    absent: tuple[tuple[str, str], ...]
    design: Design
    comparisons: tuple[Comparison, ...]
    headline: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def primary(self) -> Comparison:
        return self.comparisons[0]

    @property
    def primary_table(self) -> TextTable:
        return build_primary_table(self.primary, self.design)

    @property
    def runs_table(self) -> TextTable:
        return build_runs_table(self.runs, self.design, self.absent)

    def further_tables(self) -> list[TextTable]:
        return [*build_overview_tables(self.comparisons, self.design), build_full_table(self.comparisons, self.design)]


def build_report(
    title: str, runs: Sequence[RunRecord], absent: Sequence[tuple[str, str]], options: ReportConfig
) -> Report:
    """Compares runs. Raises `CheckpointError` where none is complete, `ConfigError` for options that do not fit them."""
    complete = [run for run in runs if run.is_complete]
    if not complete:
        ends = [f"  {run.name}: {run.end}{f' ({run.error})' if run.error else ''}" for run in runs]
        ends += [f"  {name}: {reason}" for name, reason in absent]
        raise CheckpointError("\n".join([f"{title}: no run is complete, so that there is nothing to compare:", *ends]))
    design = find_design(runs)
    baseline = design.find_baseline(options.baseline)
    quantities = list_quantities(runs)
    primary = choose_primary(quantities, runs, options.metric)
    comparisons = [
        compare_arms(one, design, baseline, options.equivalence_margin if one == primary else None)
        for one in (primary, *(other for other in quantities if other != primary))
    ]
    incomplete = [f"{run.name}: {run.end}" for run in runs if not run.is_complete]
    incomplete += [f"{name}: {reason}" for name, reason in absent]
    warnings = find_warnings(runs, design.keys)
    warnings += [f"not counted: {'; '.join(incomplete)}"] if incomplete else []
    warnings += [note for run in runs for note in run.notes]
    has_intervals = any(one.estimate and one.estimate.interval for one in comparisons[0].results)
    if has_intervals and not comparisons[0].has_dialogues:
        warnings.append(
            "the intervals are of other seeds on the same dialogues; for other dialogues too, score all runs with "
            "mode=validate runs=... split=test first (split=validation where there are no test data)"
        )
    return Report(
        title, tuple(runs), tuple(absent), design, tuple(comparisons), tuple(build_headline(comparisons[0], design)),
        tuple(warnings), (*build_notes(comparisons[0], design, runs), *design.notes),
    )  # fmt: skip


def render_markdown(report: Report) -> str:
    """`report.md`."""
    lines = [f"# {report.title}", "", *report.headline, ""]
    lines += [line for warning in report.warnings for line in (f"**Warning:** {warning}", "")]
    for table in (report.primary_table, *report.further_tables(), report.runs_table):
        lines += [f"## {table.title}", "", *render_markdown_table(table), ""]
    lines += [line for note in report.notes for line in (note, "")]
    return "\n".join(lines)


def write_report(folder: Path, report: Report, with_figures: bool) -> list[str]:
    """Writes the files of a report; returns their names. Raises `OSError`."""
    quantities = [one.quantity for one in report.comparisons]
    embedded: Sequence[Mapping[str, Any]] = ()
    files: dict[str, str | bytes] = {}
    if with_figures:
        from dialog_trainer.reporting.report.figures import draw_figures  # imports matplotlib

        embedded, files = draw_figures(report.comparisons, report.design)
    files["report.html"] = _render_html(report, embedded)
    files["report.md"] = render_markdown(report)
    files["results.csv"] = render_csv(report.runs, report.design, quantities)
    for name, content in files.items():
        write_atomically(folder, name, content)
    return list(files)


def _render_html(report: Report, figures: Sequence[Mapping[str, Any]]) -> str:
    content = {
        "title": report.title,
        "headline": report.headline,
        "warnings": report.warnings,
        "primary": report.primary_table,
        "figures": figures,
        "tables": [*report.further_tables(), report.runs_table],
        "notes": report.notes,
        "shared": _list_shared(report.runs),
    }
    return render_page("comparison.html", content)


def _list_shared(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """The settings, and facts of the environment, that all runs have alike."""
    first, *others = (
        {**run.environment(), **{key: show(value) for key, value in run.settings.items()}} for run in runs
    )
    return [(key, value) for key, value in first.items() if all(one.get(key) == value for one in others)]
