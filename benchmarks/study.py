"""Makes a study from its plan, and repeats it: `python benchmarks/study.py multirun/user_turn_mask/plan.yaml --name again`.

The plan names the settings that all runs share but those of a block with `settings` of its own, `blocks` (sweeps), how runs
are scored, and `reports` (which runs of which blocks are compared). Each step is a command of dialog_trainer, printed before it
runs, so that a part can be typed by hand. Started again it goes on: jobs that are done and scores that are there are kept.
Under a name other than the plan's folder, the results are compared with those of that folder.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

RESULTS = "results.csv"
DRY = "sweep.dry_run=true"
NOT_COMPARED = {"hours"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--name", help="folder in multirun/; by default that of the plan")
    parser.add_argument(
        "--block", action="append", dest="blocks", help="one of the blocks, may be repeated; by default all"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the jobs of each block and their cost, and stop")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="options for all blocks, as data.path=data/dailydialog"
    )
    options = parser.parse_intermixed_args()
    plan = yaml.safe_load(options.plan.read_text(encoding="utf-8"))
    unknown = [block for block in options.blocks or () if block not in plan["blocks"]]
    if unknown:
        parser.error(f"--block {' '.join(unknown)}: the plan has {', '.join(plan['blocks'])}")
    name = options.name or options.plan.parent.name
    folder = Path("multirun") / name
    blocks = {key: plan["blocks"][key] for key in options.blocks or plan["blocks"]}
    is_dry = options.dry_run or DRY in map(str.lower, options.overrides)
    typed = replace_typed(options.overrides, [DRY] if is_dry else [])
    for key, block in blocks.items():
        settings = replace_typed([*block.get("settings", plan["settings"]), *block["sweep"]], typed)
        must_run("-m", f"project={folder}", f"name={key}", *settings)
    if is_dry:
        return 0
    for key, block in blocks.items():
        if "scores" in block:
            must_run("mode=validate", f"runs={folder / key}", *block["scores"])
    worst = 0
    for key, report in plan["reports"].items():
        runs = find_patterns(folder, report["runs"])
        if not runs:
            continue
        made = folder / "reports" / key
        code = run("mode=report", f"runs=[{','.join(runs)}]", f"report.out={made}", *report["options"])
        worst = max(worst, code)
        if code == 0 and folder.resolve() != options.plan.parent.resolve():
            print(compare(options.plan.parent / "reports" / key / RESULTS, made / RESULTS))
    return worst


def replace_typed(planned: list[str], typed: list[str]) -> list[str]:
    """The options of the plan with those that were typed in the place of others: of a swept key given twice, Hydra makes all
    combinations."""
    keys = {line.partition("=")[0] for line in typed}
    return [*(line for line in planned if line.partition("=")[0] not in keys), *typed]


def run(*arguments: str) -> int:
    command = [sys.executable, "-m", "dialog_trainer", *arguments]
    print("\n$ " + shlex.join(["python", *command[1:]]), flush=True)
    return subprocess.run(command).returncode


def must_run(*arguments: str) -> None:
    code = run(*arguments)
    if code:
        sys.exit(code)


def find_patterns(folder: Path, patterns: list[str]) -> list[str]:
    """The patterns that some run of the study matches: a report is on the blocks that were run."""
    return [str(folder / pattern) for pattern in patterns if any(folder.glob(f"{pattern}/args.yaml"))]


def compare(kept: Path, made: Path) -> str:
    """How far the numbers of two results.csv are apart, run by run."""
    if not kept.exists():
        return f"{kept}: not there, so that nothing is compared"
    before, after = read_results(kept), read_results(made)
    both = before.keys() & after.keys()
    lines = [f"{made} and {kept}: {len(both)} runs in both, {len(before.keys() ^ after.keys())} in one alone"]
    for column in next(iter(before.values()), {}):
        pairs = [(as_number(before[one].get(column)), as_number(after[one].get(column))) for one in both]
        apart = max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)
        if apart:
            lines.append(f"  {column}: at most {apart:.3g} apart")
    return "\n".join(lines if len(lines) > 1 else [*lines, "  all numbers are equal"])


def read_results(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """The numbers of each run by column, by the values of what varies and the seed: a run's number in its sweep may differ."""
    with path.open(encoding="utf-8", newline="") as file:
        _, *columns = header = next(reader := csv.reader(file))
        end = columns.index("end")
        return {
            tuple(cells[1 : end + 1]): {
                key: cell
                for key, cell in zip(header[end + 1 :], cells[end + 1 :], strict=True)
                if key not in NOT_COMPARED
            }
            for cells in reader
        }


def as_number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main())
