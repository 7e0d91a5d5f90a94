"""The names of the scores, for checks that must not wait for the import of their code."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class MetricNames:
    """The scores that a validation can compute: all of them, those of which a lower value is better, those of which no
    value is better, and those that the protocol `original` has."""

    names: tuple[str, ...]
    lower_is_better: tuple[str, ...] = ()
    without_direction: tuple[str, ...] = ()
    of_original: tuple[str, ...] = ()

    def with_extra(self, extra: tuple[str, ...]) -> MetricNames:
        """With the scores of `metrics.extra`: each is called by the last part of its dotted name."""
        return replace(self, names=(*self.names, *(name.rpartition(".")[2] for name in extra)))


BUILT_IN_METRICS = MetricNames(
    names=(
        "ppl", "ppl_word", "ppl_byte", "bleu1", "bleu2", "bleu3", "bleu4", "nist1", "nist2", "nist3", "nist4", "nist5",
        "chrf", "distinct1", "distinct2", "entropy4", "length", "length_ratio", "repetition", "turn_end_rate",
    ),
    lower_is_better=("ppl", "ppl_word", "ppl_byte", "repetition"),
    without_direction=("length", "length_ratio"),
    of_original=("ppl", "ppl_word", "ppl_byte", "bleu2", "bleu4", "nist2", "nist4"),
)  # fmt: skip
