"""After how many tokens compiling has paid for itself: what it costs at the start against what it saves of each."""

from __future__ import annotations

from typing import Any


def break_even_tokens(rows: list[dict[str, Any]]) -> float | None:
    """Of rows of one size that hold ours both ways; infinite where compiled code is not faster, None where one is missing.

    The cost is the time up to the first round that counts: ours compiles before its first step, its peers within it.
    """
    by_name = {row["name"]: row for row in rows}
    plain, compiled = by_name.get("ours"), by_name.get("ours-compiled")
    if not (plain and compiled):
        return None
    saved = 1 / plain["tokens_per_second"] - 1 / compiled["tokens_per_second"]
    return max(0.0, ready_seconds(compiled) - ready_seconds(plain)) / saved if saved > 0 else float("inf")


def ready_seconds(row: dict[str, Any]) -> float:
    """From the start of the process to the end of the round that warms up."""
    return row["start_seconds"] + row["warm_up_seconds"]


def told(rows: list[dict[str, Any]]) -> str | None:
    """The same in words."""
    tokens = break_even_tokens(rows)
    if tokens is None:
        return None
    return "compiling does not pay here" if tokens == float("inf") else f"compiling pays after {tokens:,.0f} tokens"
