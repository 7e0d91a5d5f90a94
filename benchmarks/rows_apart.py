"""Compares the rows of two runs: prints the largest difference of each value over the steps that both have.

python benchmarks/rows_apart.py <run> <run>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dialog_trainer.tracking.jsonl import read_newest_rows

IGNORED = {"attempt", "time_seconds", "tokens_per_second", "data_seconds", "mfu", "step", "epoch"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2)
    one, other = parser.parse_args().runs
    for split in ("train", "validation"):
        pairs = _pairs(read_newest_rows(one / "metrics.jsonl", split), read_newest_rows(other / "metrics.jsonl", split))
        print(f"{split}: {len(pairs):,} steps in both")
        for name in dict.fromkeys(name for before, _ in pairs for name in before):
            both = [(before[name], after.get(name)) for before, after in pairs if _is_number(before.get(name))]
            if name in IGNORED or not both:
                continue
            if any(not _is_number(after) for _, after in both):
                print(f"  {name:<24} is missing in one")
                continue
            apart = max(abs(before - after) for before, after in both)
            print(f"  {name:<24} {apart:.2e}  (of values up to {max(abs(before) for before, _ in both):.4g})")


def _pairs(one: list[dict], other: list[dict]) -> list[tuple[dict, dict]]:
    by_step = {row["step"]: row for row in other}
    return [(row, by_step[row["step"]]) for row in one if row["step"] in by_step]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


if __name__ == "__main__":
    main()
