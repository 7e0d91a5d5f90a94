"""The tables of a report on runs: the primary quantity, all quantities, the runs, and `results.csv`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from dialog_trainer.amounts import format_duration
from dialog_trainer.reporting.report.arms import Arm, Design
from dialog_trainer.reporting.report.collect import RunRecord
from dialog_trainer.reporting.report.comparison import ArmResult, Comparison, Quantity
from dialog_trainer.reporting.report.statistics import ALPHA, Estimate, Interval
from dialog_trainer.reporting.tables import TextTable

INTERVAL_HEAD = "\N{PLUS-MINUS SIGN} 95 %"
# Of the baseline in the head of a column, in characters.
MAX_LABEL = 16


def build_primary_table(comparison: Comparison, design: Design) -> TextTable:
    """The arms, their means and their differences from the baseline, in at most 80 columns where labels are short."""
    baseline = comparison.baseline
    head = ["setting", "seeds", f"mean {INTERVAL_HEAD}", _head_of_difference(baseline)]
    rows = [
        [
            one.arm.label,
            str(one.estimate.seeds if one.estimate else 0),
            format_estimate(one.estimate),
            format_estimate(one.difference, sign="+") if one.arm is not baseline else "baseline",
            format_p(one.adjusted_p),
            one.verdict or "-",
        ]
        for one in comparison.results
    ]
    title = f"{comparison.quantity}" + (f" by {', '.join(design.keys)}" if design.keys else "")
    return TextTable(title, [*head, "p (Holm)", "verdict"], rows)


def build_overview_tables(comparisons: Sequence[Comparison], design: Design) -> list[TextTable]:
    """For each place a row for each arm and a column for each quantity; a star marks a difference from the baseline."""
    tables = []
    for place in dict.fromkeys(one.quantity.place for one in comparisons):
        here = [one for one in comparisons if one.quantity.place == place]
        columns = [[_starred(result) for result in one.results] for one in here]
        rows = [[arm.label, *cells] for arm, *cells in zip(design.arms, *columns, strict=True)]
        tables.append(TextTable(f"Means, {place}", [_head_of_arms(design), *(one.quantity.name for one in here)], rows))
    return tables


def build_full_table(comparisons: Sequence[Comparison], design: Design) -> TextTable:
    """Every quantity of every arm, with both kinds of interval."""
    rows = []
    for one in comparisons:
        for result in one.results:
            mean, difference = result.estimate, result.difference
            here_alone = difference.seed_interval if difference and one.has_dialogues else None
            rows.append(
                [
                    str(one.quantity),
                    result.arm.label,
                    str(mean.seeds if mean else 0),
                    format_estimate(mean),
                    format_estimate(difference, sign="+"),
                    format_interval(here_alone),
                    format_p(difference.p_value if difference else None),
                    format_p(result.adjusted_p),
                    result.verdict or "-",
                ]
            )
    head_of_difference = _head_of_difference(comparisons[0].baseline) if comparisons else ""
    head = [
        "quantity", _head_of_arms(design), "seeds", f"mean {INTERVAL_HEAD}", head_of_difference, "for these test dialogues", "p",
        "p (Holm)", "verdict",
    ]  # fmt: skip
    return TextTable("All losses and scores", head, rows)


def build_runs_table(runs: Sequence[RunRecord], design: Design, absent: Sequence[tuple[str, str]]) -> TextTable:
    """How each run ended and what it cost; `absent` are jobs without a folder that can be read, with the reason."""
    labels = {run.folder: arm.label for arm in design.arms for run in arm.runs.values()}
    rows = [
        [
            run.name, labels.get(run.folder, "not counted"), str(run.seed), run.end + (f": {run.error}" if run.error else ""),
            f"{run.steps_done:,} of {run.settings['steps']:,}", format_duration(run.seconds), f"{run.tokens:,}",
            _number(run.last_validation.get("validation_loss")), str(run.settings["precision"]),
        ]
        for run in runs
    ]  # fmt: skip
    rows += [[name, "not counted", "-", reason, *["-"] * 5] for name, reason in absent]
    head = [
        "run",
        _head_of_arms(design),
        "seed",
        "end",
        "steps done",
        "time",
        "tokens",
        "last validation_loss",
        "precision",
    ]
    return TextTable("Runs", head, rows)


def _head_of_difference(baseline: Arm) -> str:
    name = baseline.label if len(baseline.label) <= MAX_LABEL else "the baseline"
    return f"minus {name} {INTERVAL_HEAD}"


def render_csv(runs: Sequence[RunRecord], design: Design, quantities: Sequence[Quantity]) -> str:
    """`results.csv`: a row for each run, complete or not, with full precision; an empty cell where a run lacks a value."""
    values = {run.folder: arm.values for arm in design.arms for run in arm.runs.values()}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [*design.keys, "seed", "end", "steps_done", "steps", "hours", "tokens", "precision"]
    writer.writerow(["run", *columns, *map(str, quantities)])
    for run in runs:
        own = values.get(run.folder, [run.settings.get(key, "") for key in design.keys])
        cost = [run.steps_done, run.settings["steps"], round(run.seconds / 3600, 5), run.tokens]
        numbers = ["" if (value := quantity.value(run)) is None else repr(float(value)) for quantity in quantities]
        writer.writerow([run.name, *own, run.seed, run.end, *cost, run.settings["precision"], *numbers])
    return file.getvalue()


def format_estimate(estimate: Estimate | None, sign: str = "") -> str:
    """`3.214 ± 0.012`: half of the interval has two digits; without an interval four digits of the mean."""
    if estimate is None:
        return "-"
    if estimate.interval is None:
        return _number(estimate.mean, sign)
    half = (estimate.interval.high - estimate.interval.low) / 2
    if half < 1e-8:  # nothing varies
        return f"{_number(estimate.mean, sign)} \N{PLUS-MINUS SIGN} 0"
    digits = _decimals(half)
    return f"{estimate.mean:{sign}z,.{digits}f} \N{PLUS-MINUS SIGN} {half:,.{digits}f}"


def format_interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    digits = _decimals((interval.high - interval.low) / 2)
    return f"{interval.low:z,.{digits}f} to {interval.high:z,.{digits}f}"


def format_p(p_value: float | None) -> str:
    if p_value is None:
        return "-"
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def _head_of_arms(design: Design) -> str:
    return design.keys[0] if len(design.keys) == 1 else "setting"


def _starred(result: ArmResult) -> str:
    star = "*" if result.adjusted_p is not None and result.adjusted_p < ALPHA else ""
    return format_estimate(result.estimate) + star


def _decimals(half: float) -> int:
    """So many that `half` has two digits."""
    return min(8, max(0, 1 - math.floor(math.log10(half)))) if half > 1e-8 else 4


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}z,.4g}"
