"""The figures of a run of `benchmarks/training.py` in `docs/performance.md` and `docs/performance.png`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from peers import material
from peers.contender import BENCHMARKS

DOCS = BENCHMARKS.parent / "docs"
TITLES = {
    "ours": "ours", "ours-compiled": "ours, compiled", "hf": "HF Trainer", "hf-best": "HF Trainer at its best",
    "trl": "TRL SFTTrainer", "trl-best": "TRL SFTTrainer at its best", "trl-padding-free": "TRL, padding-free",
    "original": "the original's step", "floor": "matrix products alone",
}  # fmt: skip
# NVIDIA H100 SXM: dense bf16 peak of its data sheet; the share that is reached and the cost of a launch are assumed.
PEAK, ASSUMED_MFU, LAUNCH_SECONDS, TOKENS = 989e12, 0.5, 5e-6, 16_384


def write_page(out: dict[str, Any]) -> None:
    """Replaces what stands between the marks of the page; a part that was not measured this time stays as it is."""
    page = DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    if out["steps"]:
        text = _replaced(text, "table", _table(out))
        draw(out, DOCS / "performance.png")
        text = _replaced(text, "prediction", _prediction())
    if "whole_run" in out:
        text = _replaced(text, "whole-run", _whole_run(out))
    if "cost_of_data" in out:
        text = _replaced(text, "cost-of-data", _cost_of_data(out))
    page.write_text(text, encoding="utf-8")
    print(f"wrote {page.relative_to(BENCHMARKS.parent)}")


def _replaced(text: str, mark: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end of {mark} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"docs/performance.md has no place for it: <!-- {mark} --> and <!-- end of {mark} -->")
    return pattern.sub(lambda found: f"{found[1]}{content.strip()}\n{found[2]}", text)


def _made(out: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in out["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in out["versions"].items() if version)
    settings = ", ".join(f"{key} {value}" for key, value in out["settings"].items())
    return f"{out['date']}; {machine}; {versions}; {settings}."


def _title(name: str) -> str:
    kind, _, options = name.partition(":")
    return f"{TITLES[kind]}, {options.replace('+', ', ')}" if options else TITLES[kind]


def _table(out: dict[str, Any]) -> str:
    lines = [_made(out), ""]
    for one in out["steps"]:
        lines += [
            f"**{one['size']}, max_len {one['max_len']}, dropout {one['dropout']:g}** ({one['data']}, "
            f"{one['steps']} steps and {one['tokens']:,} tokens a round, "
            f"{one['trained'] / one['tokens']:.0%} of them trained)", "",
            "| | real tokens/s: median (lowest to highest) | ours is faster | share of the floor | peak memory GB | "
            "ours takes of it | warm-up s |", "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in one["contenders"]:
            share = f"{row['share_of_floor']:.2f}" if row["share_of_floor"] else "-"
            lines.append(
                f"| {_title(row['name'])} | {row['tokens_per_second']:,.0f} "
                f"({row['lowest']:,.0f} to {row['highest']:,.0f}) | "
                f"{row['ours_is_faster']:.2f}x | {share} | {row['peak_bytes'] / 1e9:.2f} | "
                f"{row['ours_takes_memory']:.2f}x | {row['warm_up_seconds']:.1f} |"
            )
        lines += ["", *_remarks(one)]
    lines.append("![Real tokens a second of each contender](performance.png)")
    return "\n".join(lines)


def _remarks(one: dict[str, Any]) -> list[str]:
    lines = [f"- {_title(name)} was not run: {reason}" for name, reason in one["missing"].items()]
    for row in one["contenders"]:
        if "break_even_tokens" in row:
            after = row["break_even_tokens"]
            lines.append(f"- Compiling pays {'never here' if after is None else f'after {after:,.0f} tokens'}.")
    return [*lines, ""] if lines else []


def draw(out: dict[str, Any], path: Path) -> None:
    """A bar for each contender, with the lowest and the highest round; one panel for each size, length and dropout."""
    count = len(out["steps"])
    most = max(len(one["contenders"]) for one in out["steps"])
    figure, axes = pyplot.subplots(
        count, 1, figsize=(8, count * (0.32 * most + 1.2)), squeeze=False, layout="constrained"
    )
    for axis, one in zip(axes[:, 0], out["steps"], strict=True):
        rows = sorted(one["contenders"], key=lambda row: row["tokens_per_second"])
        rates = [row["tokens_per_second"] for row in rows]
        errors = [
            [row["tokens_per_second"] - row["lowest"] for row in rows],
            [row["highest"] - row["tokens_per_second"] for row in rows],
        ]
        colours = [
            "#1f77b4" if row["name"].startswith("ours") else "#c7c7c7" if row["name"] == "floor" else "#8c8c8c"
            for row in rows
        ]
        axis.barh([_title(row["name"]) for row in rows], rates, xerr=errors, color=colours, capsize=3)
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


def _prediction() -> str:
    """Counts a step at 124 M and derives the time of one on a named GPU."""
    with tempfile.TemporaryDirectory() as name:
        size = material.SIZES["124M"]
        folder = Path(name) / "model"
        material.random_gpt2.write(folder, layers=size.layers, heads=size.heads, width=size.width)
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / "quick.py"), "--json", "--model", str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        return f"Not derived: {done.stderr.strip().splitlines()[-1][:200]}"
    counts = json.loads(done.stdout.strip().splitlines()[-1])
    per_token, launches = counts["flops_per_token"], counts["ops_beside_attention"] + 2 * size.layers
    arithmetic, launching = per_token * TOKENS / (PEAK * ASSUMED_MFU), launches * LAUNCH_SECONDS
    seconds = arithmetic + launching
    return (
        f"A prediction, not a measurement. Counted at 124 M: {per_token / 1e6:,.0f} million operations a token, "
        f"{counts['ops_beside_attention']:,} launches beside attention and {2 * size.layers} of it. For a step of one "
        f"micro-batch of {TOKENS:,} tokens on an H100 SXM (bf16, dense peak {PEAK / 1e12:,.0f} TFLOP/s), with an "
        f"assumed {ASSUMED_MFU:.0%} of the peak inside kernels and {LAUNCH_SECONDS * 1e6:.0f} µs a launch: "
        f"{arithmetic * 1e3:.1f} ms + "
        f"{launching * 1e3:.1f} ms = {seconds * 1e3:.1f} ms, {TOKENS / seconds:,.0f} tokens/s, "
        f"{per_token * TOKENS / seconds / PEAK:.0%} of the peak."
    )


def _whole_run(out: dict[str, Any]) -> str:
    lines = [
        _made(out),
        "",
        "| | steps | replies a validation | ours, s | HF Trainer, s | ours is faster |",
        "|---|---|---|---|---|---|",
    ]
    for one in out["whole_run"]:
        times = [" / ".join(f"{s:.0f}" for s in one["seconds"][name]) or "-" for name in ("ours", "hf")]
        ratio = f"{one['ours_is_faster']:.2f}x" if "ours_is_faster" in one else "-"
        lines.append(f"| {one['size']} | {one['steps']} | {one['contexts']} | {times[0]} | {times[1]} | {ratio} |")
    return "\n".join(lines)


def _cost_of_data(out: dict[str, Any]) -> str:
    lines = [
        _made(out), "",
        "| dialogues | a step, of 1x | memory of its own, MB | of 1x | to the first step, s | with tokenised data, s |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in out["cost_of_data"]:
        lines.append(
            f"| {row['dialogues']:,} | {row['time_against_1x']:.3f} | {row['anonymous_bytes'] / 1e6:,.0f} | "
            f"{row['memory_against_1x'] or 0:.3f} | {row['cold_start_seconds']:.1f} | {row['warm_start_seconds']:.1f} |"
        )
    return "\n".join(lines)
