"""Compares arms: each loss and score with its interval, and its paired difference from the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dialog_trainer.errors import ConfigError
from dialog_trainer.metrics.bootstrap import describe_few
from dialog_trainer.reporting.report.arms import Arm, Design
from dialog_trainer.reporting.report.collect import RunRecord, direction_of
from dialog_trainer.reporting.report.scored import DialogueScores, ScoredSplit
from dialog_trainer.reporting.report.statistics import Estimate, adjust_holm, estimate, judge

# Places of a quantity besides those of mode=validate, as test/response.
LAST, BEST = "last validation", "best validation"
LOSSES = ("validation_loss", "assistant_nll", "user_nll", "end_nll")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A loss or score by `name`, found at a `place`: "test/response" of mode=validate, `LAST` or `BEST`."""

    place: str
    name: str

    @property
    def better(self) -> str:
        return direction_of(self.name)

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"

    def value(self, run: RunRecord) -> float | None:
        if self.place == LAST:
            return run.last_validation.get(self.name)
        if self.place == BEST:
            values = [row[self.name] for row in run.rows.validations if row.get(self.name) is not None]
            return min(values) if values else None
        return next((one.values.get(self.name) for one in run.scored if one.place == self.place), None)

    def dialogues(self, run: RunRecord) -> DialogueScores | None:
        return next((one.dialogues.get(self.name) for one in run.scored if one.place == self.place), None)


@dataclass(frozen=True, slots=True)
class ArmResult:
    """A quantity of one arm: its estimate (None where no run has it), and its `difference` from the baseline over the
    seeds of both, with Holm's adjusted p value and the verdict; None and "" of the baseline itself."""

    arm: Arm
    estimate: Estimate | None
    difference: Estimate | None = None
    adjusted_p: float | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A quantity of all arms. `has_dialogues`: the intervals are for other test dialogues too, not for other seeds alone."""

    quantity: Quantity
    baseline: Arm
    results: tuple[ArmResult, ...]
    has_dialogues: bool
    margin: float | None

    def best(self) -> ArmResult | None:
        """The arm with the best mean; None where no direction is better."""
        found = [one for one in self.results if one.estimate]
        if not found or self.quantity.better == "neither":
            return None
        sign = 1 if self.quantity.better == "lower" else -1
        return min(found, key=lambda one: sign * _mean(one))


def list_quantities(runs: Sequence[RunRecord]) -> list[Quantity]:
    """All quantities of complete runs: those of mode=validate first, then of the last validation, then the best loss."""
    found: dict[Quantity, None] = {}
    complete = [run for run in runs if run.is_complete]
    for place in dict.fromkeys(one.place for run in complete for one in run.scored):
        here = [one for run in complete for one in run.scored if one.place == place]
        found |= dict.fromkeys(Quantity(place, name) for one in here for name in one.values)
    for run in complete:
        names = (*LOSSES, *run.settings["metrics.names"])
        found |= dict.fromkeys(Quantity(LAST, name) for name in names if run.last_validation.get(name) is not None)
    if any(run.rows.validations for run in complete):
        found[Quantity(BEST, "validation_loss")] = None
    return list(found)


def choose_primary(quantities: Sequence[Quantity], runs: Sequence[RunRecord], metric: str | None) -> Quantity:
    """The quantity that the report is about: `report.metric`, or the loss of the trained role; of scored splits that all
    complete runs have, the first, else of the last validation. Raises `ConfigError` where there is none."""
    complete = [run for run in runs if run.is_complete]
    roles = {f"{run.settings['mask_schedule.trained_role']}_nll" for run in complete}
    names = [metric] if metric else [*sorted(roles), "validation_loss"]
    named = [one for name in names for one in quantities if name in (one.name, str(one)) and one.place != BEST]
    whole = [one for one in named if all(one.value(run) is not None for run in complete)]
    if not named:
        there = ", ".join(dict.fromkeys(one.name for one in quantities)) or "none: no run has a validation"
        raise ConfigError([f"report.metric={metric}: no complete run has it; there are: {there}"])
    return (whole or named)[0]


def compare_arms(quantity: Quantity, design: Design, baseline: Arm, margin: float | None) -> Comparison:
    """The estimates of all arms, and their paired differences from the baseline. Holm's family is the arms of this
    quantity. `margin`: that of equivalence, in units of the quantity."""
    values = {arm.label: _by_seed(quantity, arm) for arm in design.arms}
    dialogues = {arm.label: {seed: quantity.dialogues(run) for seed, run in arm.runs.items()} for arm in design.arms}
    digests = {
        None if found is None else found.digest
        for label, by_seed in dialogues.items()
        for seed, found in by_seed.items()
        if seed in values[label]
    }
    has_dialogues = len(digests) == 1 and None not in digests
    pseudo = {
        label: {seed: found.values for seed, found in by_seed.items() if found and has_dialogues}
        for label, by_seed in dialogues.items()
    }
    first = []
    for arm in design.arms:
        own, pseudo_own = values[arm.label], pseudo[arm.label]
        mean = _estimate(list(own.values()), [pseudo_own[seed] for seed in own if has_dialogues]) if own else None
        other, pseudo_other = values[baseline.label], pseudo[baseline.label]
        seeds = [seed for seed in own if seed in other and arm is not baseline]
        pairs = [pseudo_own[seed] - pseudo_other[seed] for seed in seeds if has_dialogues]
        first.append((arm, mean, _estimate([own[seed] - other[seed] for seed in seeds], pairs) if seeds else None))
    adjusted = adjust_holm([difference.p_value if difference else None for _, _, difference in first])
    results = (
        ArmResult(arm, mean, difference, p_value, judge(difference, p_value, margin) if difference else "")
        for (arm, mean, difference), p_value in zip(first, adjusted, strict=True)
    )
    return Comparison(quantity, baseline, tuple(results), has_dialogues, margin)


def find_warnings(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[str]:
    """What keeps the complete runs from being compared: other precision, machine, data, protocol, or budget."""
    complete = [run for run in runs if run.is_complete]
    found = []
    environments = [run.environment() for run in complete]
    for name in dict.fromkeys(name for one in environments for name in one):
        counts: dict[str, int] = {}
        for one in environments:
            counts[one.get(name, "none")] = counts.get(one.get(name, "none"), 0) + 1
        if len(counts) > 1:
            shown = _only_differing_parts(list(counts))
            texts = (
                f"{text} ({count} run{'s' * (count > 1)})" for text, count in zip(shown, counts.values(), strict=True)
            )
            found.append(f"{name} is not the same in all runs: {', '.join(texts)}")
    steps = sorted({run.steps_done for run in complete})
    if len(steps) > 1 and "steps" not in keys:
        found.append(
            f"unequal budgets: runs ended after {steps[0]:,} to {steps[-1]:,} steps, so that losses and scores are not of "
            "equal training; patience=0 turns early stopping off"
        )
    for place in dict.fromkeys(one.place for run in complete for one in run.scored):
        here = [(run, one) for run in complete for one in run.scored if one.place == place]
        found += [f"{place}: {line}" for line in _describe_few_dialogues([one for _, one in here])]
        if len({run.steps_done == one.file.step for run, one in here}) > 1:
            found.append(f"{place}: of some runs the last checkpoint was scored, of others an earlier one")
        missing = [run.name for run in complete if place not in [one.place for one in run.scored]]
        if missing:
            found.append(f"{place}: not scored, so missing from its tables: {', '.join(missing)}")
    return found


def _describe_few_dialogues(scored: Sequence[ScoredSplit]) -> Iterator[str]:
    """Warnings of losses and scores from few dialogues; a loss is of the whole split, a score of the replies made."""
    counts: dict[str, int] = {}
    for one in scored:
        for name in one.values:
            count = len(one.dialogues[name].values) if name in one.dialogues else one.num_dialogues
            counts[name] = min(count, counts.get(name, count))
    for count in sorted(set(counts.values())):
        if few := describe_few(count):
            yield f"{', '.join(name for name, of_name in counts.items() if of_name == count)}: {few}"


def _by_seed(quantity: Quantity, arm: Arm) -> Mapping[int, float]:
    found = ((seed, quantity.value(run)) for seed, run in sorted(arm.runs.items()))
    return {seed: float(value) for seed, value in found if value is not None}


def _estimate(values: Sequence[float], dialogues: Sequence[np.ndarray]) -> Estimate:
    return estimate(np.array(values), np.mean(dialogues, axis=0) if dialogues else None)


def _mean(result: ArmResult) -> float:
    assert result.estimate is not None
    return result.estimate.mean


def _only_differing_parts(texts: Sequence[str]) -> list[str]:
    """Long texts, as signatures, without the parts that all have."""
    if max(map(len, texts)) <= 60:
        return list(texts)
    parts = [text.replace("|", " ").split() for text in texts]
    shared = set(parts[0]).intersection(*parts)
    return [" ".join(part for part in one if part not in shared) or "the rest" for one in parts]
