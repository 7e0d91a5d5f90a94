"""The names of the scores as a configuration checks them: without importing the code of any."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dialog_trainer.metrics.registry import LOWER_IS_BETTER, ORIGINAL_SCORE_NAMES, SCORE_NAMES, WITHOUT_DIRECTION


@dataclass(frozen=True, slots=True)
class MetricNames:
    """The scores that a validation can compute: all of them, those of which a lower value is better, those of which no
    value is better, and those that the protocol `original` has."""

    names: tuple[str, ...]
    lower_is_better: tuple[str, ...] = ()
    without_direction: tuple[str, ...] = ()
    of_original: tuple[str, ...] = ()

    def with_extra(self, extra: tuple[str, ...]) -> MetricNames:
        """With the scores of `metrics.extra`: each has the last part of its dotted name."""
        return replace(self, names=(*self.names, *(name.rpartition(".")[2] for name in extra)))


BUILT_IN_METRICS = MetricNames(SCORE_NAMES, LOWER_IS_BETTER, WITHOUT_DIRECTION, ORIGINAL_SCORE_NAMES)
