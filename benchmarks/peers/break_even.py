"""Number of tokens after which compiling pays off: its cost at the start over the time that it saves for each token."""

from __future__ import annotations

from typing import Any


def break_even_tokens(rows: list[dict[str, Any]]) -> float | None:
    """Tokens for the rows of one size; infinite if compiled code is not faster, None if one of the two rows is missing.

    The cost is the time until the first timed round: ours compiles before its first step, its peers within it.
    """
    by_name = {row["name"]: row for row in rows}
    plain, compiled = by_name.get("ours"), by_name.get("ours-compiled")
    if not (plain and compiled):
        return None
    saved = 1 / plain["tokens_per_second"] - 1 / compiled["tokens_per_second"]
    return max(0.0, ready_seconds(compiled) - ready_seconds(plain)) / saved if saved > 0 else float("inf")


def ready_seconds(row: dict[str, Any]) -> float:
    """From the start of the process to the end of the warm-up round."""
    return row["start_seconds"] + row["warm_up_seconds"]


def describe_break_even(rows: list[dict[str, Any]]) -> str | None:
    """`break_even_tokens` as a sentence; None if a row is missing."""
    tokens = break_even_tokens(rows)
    if tokens is None:
        return None
    return (
        "compiling does not pay off here"
        if tokens == float("inf")
        else f"compiling pays off after {tokens:,.0f} tokens"
    )
