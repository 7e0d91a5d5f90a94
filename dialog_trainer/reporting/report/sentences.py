"""The answer of a report in sentences, and the notes below its tables."""

from __future__ import annotations

from collections.abc import Sequence

from dialog_trainer.amounts import format_duration
from dialog_trainer.reporting.report.arms import Design
from dialog_trainer.reporting.report.collect import RunRecord
from dialog_trainer.reporting.report.comparison import BEST, LAST, ArmResult, Comparison, Quantity
from dialog_trainer.reporting.report.statistics import Estimate
from dialog_trainer.reporting.report.tables import (
    format_estimate,
    format_interval,
    format_p,
)

_UNDECIDED = "not distinguishable from it"
_ADJECTIVES = {"lower": "lowest", "higher": "highest"}


def build_headline(comparison: Comparison, design: Design) -> list[str]:
    """A few sentences: which arm is best and by how much, its value, and which of the other arms differ from the baseline."""
    best, quantity = comparison.best(), comparison.quantity
    if best is None or best.estimate is None:
        return [f"No setting is best by {quantity.name}: no direction of it is better."]
    value = f"{_with_interval(best.estimate)}{unit_of(quantity)} {place_of(quantity)}, {_seeds(best.estimate)}"
    if len(design.arms) == 1:
        alone = [] if best.estimate.interval else ["With one seed there is no interval."]
        return [f"{design.name_arm(best.arm)}: {quantity.name} is {value}.", *alone]
    first = f"{design.name_arm(best.arm)} has the {_ADJECTIVES[quantity.better]} {quantity.name}"
    others = [one for one in comparison.results if one.arm is not comparison.baseline and one.difference]
    if not others:
        return [f"{first}: {value}.", "No seed has runs of two settings, so that there is no difference to test."]
    if all(one.difference and one.difference.interval is None for one in others):
        untested = "With one seed there is no interval and no test: the differences may be noise of the seed."
        return [f"{first}: {value}.", untested]
    if all(one.verdict == "undecided" for one in others):
        return [_name_best_of_equals(best, value, comparison, design)]
    if best.arm is comparison.baseline:
        lines = [f"{first}: {value}. The others are compared with it."]
    else:
        lines = [f"{first}{_compare_best(best, comparison)}.", f"Its {quantity.name} is {value}."]
    return [*lines, *_group_others(others, comparison, design, best)]


def unit_of(quantity: Quantity) -> str:
    return " nats per token" if quantity.name.endswith(("_nll", "_loss")) else ""


def place_of(quantity: Quantity) -> str:
    return f"at the {quantity.place}" if quantity.place in (LAST, BEST) else f"on {quantity.place}"


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
    time, tokens = format_duration(sum(run.seconds for run in runs)), sum(run.tokens for run in runs)
    notes.append(f"Cost of {len(runs)} runs: {time}, {tokens:,} tokens.")
    return notes


def _compare_best(best: ArmResult, comparison: Comparison) -> str:
    """The end of the first sentence: how the best arm differs from the baseline."""
    difference, baseline = best.difference, comparison.baseline.label
    if difference is None:
        return f"; no seed has a run of it and of {baseline}, so that the difference cannot be tested"
    numbers = f"{format_estimate(difference, sign='+')}{unit_of(comparison.quantity)} (p {_equals(format_p(best.adjusted_p))})"
    if best.verdict == "undecided":
        return f", not distinguishable from {baseline}: difference {numbers}"
    if best.verdict == "equivalent":
        return f", equivalent to {baseline} within \u00b1{comparison.margin:g}: difference {numbers}"
    return f", {best.verdict} than {baseline}: difference {numbers}"


def _name_best_of_equals(best: ArmResult, value: str, comparison: Comparison, design: Design) -> str:
    """The headline where no arm differs from the baseline: that first, then which mean is best."""
    baseline, quantity = design.name_arm(comparison.baseline), comparison.quantity
    mean = f"the {_ADJECTIVES[quantity.better]} mean {quantity.name}: {value}"
    if best.arm is comparison.baseline:
        return f"No setting can be distinguished from {baseline}, which has {mean}."
    return f"No setting can be distinguished from {baseline}; {best.arm.label} has {mean}."


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
    mean = format_estimate(estimate).partition(" ")[0]
    return f"{mean} (95 % interval {format_interval(estimate.interval)})"


def _seeds(estimate: Estimate) -> str:
    return f"{estimate.seeds} seed{'s' * (estimate.seeds != 1)}"


def _equals(p_value: str) -> str:
    """`= 0.03`, or `< 0.001`."""
    return f"< {p_value[1:]}" if p_value.startswith("<") else f"= {p_value}"
