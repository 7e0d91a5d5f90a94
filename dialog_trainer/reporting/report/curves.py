"""Which arms of a report lie on a curve over a swept number."""

from __future__ import annotations

from dataclasses import dataclass

from dialog_trainer.reporting.report.arms import Design, label_values


@dataclass(frozen=True, slots=True)
class Line:
    """Arms that differ in the swept number alone: `places` in the design, and the number of each, in the order of the numbers.
    `label` says the values of the other keys; "" where there are none."""

    label: str
    places: tuple[int, ...]
    numbers: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """The swept number, by its dotted `key`, and a line for each combination of the other values."""

    key: str
    lines: tuple[Line, ...]


def find_curves(design: Design) -> Curves | None:
    """The curves over the key that has the most numbers on one line; None where no arms differ in a number alone."""
    found, longest = None, 1
    for place, key in enumerate(design.keys):
        if all(type(arm.values[place]) in (int, float) for arm in design.arms):
            lines = _find_lines(design, place)
            length = max(len(line.places) for line in lines)
            if length > longest:
                found, longest = Curves(key, lines), length
    return found


def _find_lines(design: Design, place: int) -> tuple[Line, ...]:
    groups: dict[str, list[tuple[float, int]]] = {}
    for index, arm in enumerate(design.arms):
        others = [other for other in range(len(design.keys)) if other != place]
        keys = [design.keys[other] for other in others]
        label = label_values(keys, [arm.values[other] for other in others]) if others else ""
        groups.setdefault(label, []).append((float(arm.values[place]), index))
    return tuple(
        Line(label, tuple(index for _, index in sorted(points)), tuple(number for number, _ in sorted(points)))
        for label, points in groups.items()
    )
