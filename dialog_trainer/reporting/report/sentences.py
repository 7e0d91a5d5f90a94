"""The answer of a report in sentences, and the notes below its tables."""

from __future__ import annotations

from collections.abc import Sequence

from dialog_trainer.reporting.report.arms import Design
from dialog_trainer.reporting.report.collect import RunRecord
from dialog_trainer.reporting.report.comparison import LAST, ArmResult, Comparison, Quantity
from dialog_trainer.reporting.report.statistics import Estimate
from dialog_trainer.reporting.report.tables import (
    SECONDS_PER_HOUR,
    format_estimate,
    format_interval,
    format_p,
)

_UNDECIDED = "not distinguishable from it"


def build_headline(comparison: Comparison, design: Design) -> list[str]:
    """Two or three sentences: which arm is best, by how much, and which arms differ from the baseline."""
    best, quantity = comparison.best(), comparison.quantity
    if best is None or best.estimate is None:
        return [f"No arm is best by {describe_quantity(quantity)}: no direction of it is better."]
    adjective = "lowest" if quantity.better == "lower" else "highest"
    value = f"{_with_interval(best.estimate)}, {_seeds(best.estimate)}"
    if len(design.arms) == 1:
        return [f"{design.name_arm(best.arm)}: {describe_quantity(quantity)} is {value}."]
    lines = [f"{design.name_arm(best.arm)} has the {adjective} {describe_quantity(quantity)}: {value}."]
    others = [one for one in comparison.results if one.arm is not comparison.baseline and one.difference]
    if not others:
        return [*lines, "No seed has a run of two settings, so that there is no difference to test."]
    if all(one.difference and one.difference.interval is None for one in others):
        return [*lines, "With one seed there is no interval and no test: the differences may be noise of the seed."]
    if best.arm is not comparison.baseline:
        lines.append(_compare_best(best, comparison, design))
    return [*lines, *_group_others(others, comparison, design, best)]


def describe_quantity(quantity: Quantity) -> str:
    """`assistant_nll (nats per token) on test/response`."""
    unit = " (nats per token)" if quantity.name.endswith(("_nll", "_loss")) else ""
    place = f"at the {quantity.place}" if quantity.place == LAST else f"on {quantity.place}"
    return f"{quantity.name}{unit} {place}"


def build_notes(comparison: Comparison, design: Design, runs: Sequence[RunRecord]) -> list[str]:
    """How the numbers were made, and what the runs cost."""
    count = len(design.arms) - 1
    notes = [
        "Intervals: 95 % t intervals over seeds, not adjusted for the number of comparisons. Differences are paired: each "
        f"seed of a setting minus the same seed of {comparison.baseline.label}.",
        f"p (Holm): two-sided, adjusted over the {count} comparison{'s' * (count != 1)} of one loss or score; * marks those "
        "below 0.05.",
    ]
    if comparison.has_dialogues:
        notes.append(
            "Noise of seeds and of test dialogues: SE\u00b2 = s\u00b2(seed means)/S + s\u00b2(dialogue means)/N with "
            "Satterthwaite's degrees of freedom, dialogues by their jackknife pseudo-values; \u201cfor these test "
            "dialogues\u201d is the interval of the seeds alone."
        )
    if comparison.margin:
        notes.append(f"Equivalent: within \u00b1{comparison.margin:g}, by two one-sided tests at 5 %.")
    left_out = {one.left_out for run in runs for one in run.scored if one.place == comparison.quantity.place}
    if left_out - {0}:
        notes.append(
            f"{comparison.quantity.place}: without the {max(left_out):,} dialogues that are also in the training split."
        )
    hours, tokens = sum(run.seconds for run in runs) / SECONDS_PER_HOUR, sum(run.tokens for run in runs)
    notes.append(f"{len(runs)} runs: {hours:.3g} hours, {tokens:,} tokens.")
    return notes


def _compare_best(best: ArmResult, comparison: Comparison, design: Design) -> str:
    difference, baseline = best.difference, design.name_arm(comparison.baseline)
    if difference is None:
        return f"No seed has a run of it and of {baseline}, so that there is no difference to test."
    numbers = f"{format_estimate(difference, sign='+')}, p = {format_p(best.adjusted_p)} after Holm's correction"
    if best.verdict == "undecided":
        return f"It is not distinguishable from {baseline}: difference {numbers}."
    if best.verdict == "equivalent":
        return f"It is equivalent to {baseline} within \u00b1{comparison.margin:g}: difference {numbers}."
    return f"It is {best.verdict} than {baseline}: difference {numbers}."


def _group_others(others: Sequence[ArmResult], comparison: Comparison, design: Design, best: ArmResult) -> list[str]:
    """The other arms by verdict, in one sentence."""
    words = {"lower": "lower", "higher": "higher", "equivalent": "equivalent", "undecided": _UNDECIDED}
    parts = [
        f"{words[verdict]}: {', '.join(one.arm.label for one in others if one.verdict == verdict and one is not best)}"
        for verdict in words
        if any(one.verdict == verdict and one is not best for one in others)
    ]
    rest = "the others" if best.arm is not comparison.baseline else "the other settings"
    return [f"Against {design.name_arm(comparison.baseline)}, of {rest}, {'; '.join(parts)}."] if parts else []


def _with_interval(estimate: Estimate) -> str:
    if estimate.interval is None:
        return format_estimate(estimate)
    return f"{format_estimate(estimate)} (95 % interval {format_interval(estimate.interval)})"


def _seeds(estimate: Estimate) -> str:
    return f"{estimate.seeds} seed{'s' * (estimate.seeds != 1)}"
