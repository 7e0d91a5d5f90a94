"""Progress of a part, told as that of a whole."""

from __future__ import annotations

from collections.abc import Callable


def in_proportion(advance: Callable[[int], None], part: int, whole: int) -> Callable[[int], None]:
    """Takes counts of `part` things, and advances as many of `whole` as have the same share: all of them at the end."""
    done = told = 0
    if part == 0:
        return lambda count: None

    def on_part(count: int) -> None:
        nonlocal done, told
        done += count
        reached = done * whole // part
        if reached > told:
            advance(reached - told)
            told = reached

    return on_part
