"""Writes the results of `benchmarks/training.py` into `docs/performance.md`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from peers import machine
from peers.break_even import describe_break_even, ready_seconds
from peers.contender import BENCHMARKS
from peers.figures import draw_rates, draw_ratios
from peers.job import title_of
from peers.titles import contender_title

DOCS = BENCHMARKS.parent / "docs"
RATIOS = "![How many times as fast as HF Trainer at its best ours is](performance_ratios.png)"


def write_page(sessions: list[dict[str, Any]]) -> None:
    """Replaces the parts between the markers of the page; a part that no session has measured is unchanged."""
    steps = _latest(sessions, "steps", title_of)
    whole_runs = _latest(sessions, "whole_run", title_of)
    costs = [session for session in sessions if "cost_of_data" in session][-1:]
    if steps:
        rows = [row for _, found in steps for row in found]
        draw_rates(rows, DOCS / "performance.png")
        ahead = draw_ratios(rows, DOCS / "performance_ratios.png")
        replace_part("table", (f"{RATIOS}\n\n" if ahead else "") + _table(steps))
    if whole_runs:
        replace_part("whole-run", _whole_run(whole_runs))
    for session in costs:
        replace_part("cost-of-data", _cost_of_data(session))
    print("wrote docs/performance.md")


def replace_part(marker: str, content: str) -> None:
    """Puts `content` between the two markers of that name in the page."""
    page = DOCS / "performance.md"
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- end of {marker} -->)", re.DOTALL)
    text = page.read_text(encoding="utf-8")
    if not pattern.search(text):
        raise SystemExit(f"docs/performance.md lacks the markers <!-- {marker} --> and <!-- end of {marker} -->")
    page.write_text(pattern.sub(lambda found: f"{found[1]}{content.strip()}\n{found[2]}", text), encoding="utf-8")


def _latest(sessions: list[dict[str, Any]], part: str, key: Callable[[dict], Any]) -> list[tuple[dict, list[dict]]]:
    """Sessions with their rows of `part`; of rows with the same key only the latest is kept."""
    newest = {key(row): id(row) for session in sessions for row in session.get(part, [])}
    found = [(one, [row for row in one.get(part, []) if newest[key(row)] == id(row)]) for one in sessions]
    return [(one, rows) for one, rows in found if rows]


def _table(steps: list[tuple[dict, list[dict]]]) -> str:
    lines = []
    for session, rows in steps:
        lines += [machine.format_line(session), ""]
        for one in rows:
            lines += _table_of(one)
    return "\n".join([*lines, "![Real tokens per second of each contender](performance.png)"])


def _table_of(one: dict[str, Any]) -> list[str]:
    lines = [
        f"**{title_of(one)}** ({one['data']}, "
        f"{one['steps']} steps and {one['tokens']:,} tokens a round, "
        f"{one['trained'] / one['tokens']:.0%} of them trained)", "",
        "| | real tokens/s: median (lowest to highest) | ours is faster | fraction of the floor | peak memory, GB | "
        "our memory / its | ready after, s |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in one["contenders"]:
        share = f"{row['share_of_floor']:.2f}" if row["share_of_floor"] else "-"
        lines.append(
            f"| {contender_title(row['name'])} | {row['tokens_per_second']:,.0f} "
            f"({row['lowest']:,.0f} to {row['highest']:,.0f}) | "
            f"{row['ours_is_faster']:.2f}x | {share} | {row['peak_bytes'] / 1e9:.2f} | "
            f"{row['ours_takes_memory']:.2f}x | {ready_seconds(row):.0f} |"
        )
    return [*lines, "", *_remarks(one)]


def _remarks(one: dict[str, Any]) -> list[str]:
    lines = _not_run(one)
    pays = describe_break_even(one["contenders"])
    if pays:
        lines.append(f"- {pays[0].upper()}{pays[1:]}.")
    return [*lines, ""] if lines else []


def _not_run(one: dict[str, Any]) -> list[str]:
    return [f"- {contender_title(name)} did not finish: {reason}" for name, reason in one["missing"].items()]


def _whole_run(runs: list[tuple[dict, list[dict]]]) -> str:
    lines = []
    for session, rows in runs:
        lines += [machine.format_line(session), ""]
        for one in rows:
            lines += [
                f"**{title_of(one)}** ({one['steps']} steps, {one['contexts']} replies a validation)", "",
                "| | seconds of each round | ours is faster |", "|---|---|---|",
            ]  # fmt: skip
            for name, times in one["seconds"].items():
                shown = " / ".join(f"{seconds:.0f}" for seconds in times) or "-"
                ratio = one["ours_is_faster"].get(name)
                lines.append(f"| {contender_title(name)} | {shown} | {f'{ratio:.2f}x' if ratio else '-'} |")
            lines += ["", *_not_run(one)]
    return "\n".join(lines)


def _cost_of_data(session: dict[str, Any]) -> str:
    lines = [
        machine.format_line(session), "", f"**0.7M, {session['cost_of_data'][0]['precision']}**", "",
        "| dialogues | time of a step, ratio to 1x | private memory, MB | ratio to 1x | to the first step, s | "
        "with tokenized data, s |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in session["cost_of_data"]:
        lines.append(
            f"| {row['dialogues']:,} | {row['time_against_1x']:.3f} | {row['anonymous_bytes'] / 1e6:,.0f} | "
            f"{row['memory_against_1x'] or 0:.3f} | {row['cold_start_seconds']:.1f} | {row['warm_start_seconds']:.1f} |"
        )
    return "\n".join(lines)
