"""Writes the results of `benchmarks/training.py` into `docs/performance.md` and `docs/performance.png`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from peers import machine
from peers.break_even import describe_break_even, ready_seconds
from peers.contender import BENCHMARKS
from peers.prediction import describe_prediction

DOCS = BENCHMARKS.parent / "docs"
TITLES = {
    "ours": "ours", "ours-compiled": "ours, compiled", "hf": "HF Trainer", "hf-best": "HF Trainer at its best",
    "trl": "TRL SFTTrainer", "trl-best": "TRL SFTTrainer at its best", "trl-padding-free": "TRL, padding-free",
    "original": "the original's step", "floor": "matrix products alone",
    "hf-large-batches": "HF Trainer, evaluated in batches as large as ours",
}  # fmt: skip


def write_page(sessions: list[dict[str, Any]]) -> None:
    """Replaces the parts between the markers of the page; a part that no session has measured is unchanged."""
    steps = _latest(sessions, "steps", lambda row: (row["size"], row["max_len"], row["dropout"]))
    whole_runs = _latest(sessions, "whole_run", lambda row: (row["size"], row["max_len"]))
    costs = [session for session in sessions if "cost_of_data" in session][-1:]
    if steps:
        replace_part("table", _table(steps))
        draw([row for _, rows in steps for row in rows], DOCS / "performance.png")
    if whole_runs:
        replace_part("whole-run", _whole_run(whole_runs))
    for session in costs:
        replace_part("cost-of-data", _cost_of_data(session))
    if steps:
        replace_part("prediction", describe_prediction())
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


def _title(name: str) -> str:
    kind, _, options = name.partition(":")
    return f"{TITLES[kind]}, {options.replace('+', ', ')}" if options else TITLES[kind]


def _table(steps: list[tuple[dict, list[dict]]]) -> str:
    lines = []
    for session, rows in steps:
        lines += [machine.format_line(session), ""]
        for one in rows:
            lines += _table_of(one)
    return "\n".join([*lines, "![Real tokens per second of each contender](performance.png)"])


def _table_of(one: dict[str, Any]) -> list[str]:
    lines = [
        f"**{one['size']}, max_len {one['max_len']}, dropout {one['dropout']:g}** ({one['data']}, "
        f"{one['steps']} steps and {one['tokens']:,} tokens a round, "
        f"{one['trained'] / one['tokens']:.0%} of them trained)", "",
        "| | real tokens/s: median (lowest to highest) | ours is faster | fraction of the floor | peak memory, GB | "
        "our memory / its | ready after, s |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in one["contenders"]:
        share = f"{row['share_of_floor']:.2f}" if row["share_of_floor"] else "-"
        lines.append(
            f"| {_title(row['name'])} | {row['tokens_per_second']:,.0f} "
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
    return [f"- {_title(name)} did not finish: {reason}" for name, reason in one["missing"].items()]


def draw(steps: list[dict[str, Any]], path: Path) -> None:
    """Draws a bar for each contender with its lowest and highest round; one panel for each size, length and dropout."""
    heights = [0.3 * len(one["contenders"]) + 0.7 for one in steps]  # inches; bars are equally thick in all panels
    figure, axes = pyplot.subplots(
        len(steps), 1, figsize=(8, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, one in zip(axes[:, 0], steps, strict=True):
        rows = sorted(one["contenders"], key=lambda row: row["tokens_per_second"])
        rates = [row["tokens_per_second"] for row in rows]
        errors = [
            [row["tokens_per_second"] - row["lowest"] for row in rows],
            [row["highest"] - row["tokens_per_second"] for row in rows],
        ]
        colors = [
            "#1f77b4" if row["name"].startswith("ours") else "#c7c7c7" if row["name"] == "floor" else "#8c8c8c"
            for row in rows
        ]
        axis.barh([_title(row["name"]) for row in rows], rates, xerr=errors, color=colors, capsize=3)
        for place, row in enumerate(rows):
            axis.text(
                row["highest"],
                place,
                f"  {row['tokens_per_second']:,.0f}  ({row['peak_bytes'] / 1e9:.1f} GB)",
                va="center",
                fontsize=8,
            )
        axis.set_xlim(0, 1.3 * max(row["highest"] for row in rows))
        axis.set_title(f"{one['size']}, max_len {one['max_len']}, dropout {one['dropout']:g}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("real tokens a second, median and spread of the rounds (peak memory)")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _whole_run(runs: list[tuple[dict, list[dict]]]) -> str:
    lines = []
    for session, rows in runs:
        lines += [machine.format_line(session), ""]
        for one in rows:
            lines += [
                f"**{one['size']}, max_len {one['max_len']}, {one['steps']} steps, "
                f"{one['contexts']} replies a validation**", "",
                "| | seconds of each round | ours is faster |", "|---|---|---|",
            ]  # fmt: skip
            for name, times in one["seconds"].items():
                shown = " / ".join(f"{seconds:.0f}" for seconds in times) or "-"
                ratio = one["ours_is_faster"].get(name)
                lines.append(f"| {TITLES[name]} | {shown} | {f'{ratio:.2f}x' if ratio else '-'} |")
            lines += ["", *_not_run(one)]
    return "\n".join(lines)


def _cost_of_data(session: dict[str, Any]) -> str:
    lines = [
        machine.format_line(session), "",
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
