"""Compares training with other trainers and with bare matrix products: tokens per second and peak memory.

    python benchmarks/training.py                                  # 0.7 M, a few minutes
    python benchmarks/training.py --sizes 0.7M 10M 124M --write-docs --out outputs/training.json
    python benchmarks/training.py --sizes 124M --contenders ours ours:micro_batch_tokens=4096 hf-best
    python benchmarks/training.py --write-docs --from outputs/small.json outputs/large.json    # saved results

Every contender has the same dialogues, weights, mask, optimizer and number of threads, and a process of its own. Before
anything is timed, the loss of each on the first batch, not compiled, must equal that of the plain model. After a warm-up
round they run interleaved, round by round; if the memory does not hold all at once, they run in several heats, ours in
each. A round is a pass over `--steps` batches. Times are reported, not asserted. A contender is one of `CONTENDERS`; ours
also takes options of a run after a colon, joined by `+`. The extra `bench` installs what the peers need.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from peers import machine
from peers.break_even import describe_break_even, ready_seconds
from peers.heats import CONTENDERS, FLOOR, REFERENCE, check, module_of, run_heats, split_into_heats
from peers.job import Job, setting_of, title_of

# Batches of a round, so that it takes a second or more.
STEPS = {"0.7M": 20, "10M": 10, "124M": 5}


def main() -> None:
    arguments = parse_arguments()
    sessions = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.sessions]
    if not sessions:
        sessions = [run_measurements(arguments)]
    if arguments.write_docs:
        from peers.page import write_page

        write_page(sessions)


def run_measurements(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {key: getattr(arguments, key) for key in ("batch_size", "rounds")}
    out: dict[str, Any] = machine.describe(arguments.threads, settings) | {"steps": []}
    print(", ".join(f"{key} {value}" for key, value in out["machine"].items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="dialog-trainer-bench-") as name:
        folder = Path(name)
        if arguments.cost_of_data:
            from peers.data_cost import measure_cost_of_data

            job = build_job(arguments, folder, 128, 0.1, arguments.precision[0])
            out["cost_of_data"] = measure_cost_of_data(job, arguments.rounds)
            save(out, arguments.out)
        if arguments.whole_run:
            from peers.whole_run import measure_whole_run

            out["whole_run"] = []
            for size, max_len, precision in product(arguments.sizes, arguments.max_len, arguments.precision):
                job = build_job(arguments, folder, max_len, 0.1, precision)
                out["whole_run"].append(measure_whole_run(size, job, arguments.rounds))
                save(out, arguments.out)
        if not (arguments.cost_of_data or arguments.whole_run) or arguments.steps_too:
            for size, max_len, dropout in product(arguments.sizes, arguments.max_len, arguments.dropout):
                for row in measure(folder / f"{size}-{max_len}-{dropout:g}", size, max_len, dropout, arguments):
                    out["steps"].append(row)
                    save(out, arguments.out)
    save(out, arguments.out)
    return out


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["0.7M"], choices=["0.7M", "10M", "124M"])
    parser.add_argument("--max-len", nargs="+", type=int, default=[128])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1])
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=["fp32", "bf16"],
        help="default: fp32, and bf16 where the machine computes in it",
    )
    parser.add_argument("--lora", action="store_true", help="train an adapter: ours, hf and hf-best alone can")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help=f"batches in a round, at most 50; default: by size {STEPS}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--bf16-contenders", nargs="+", metavar="NAME", help="other contenders in bf16")
    parser.add_argument("--out", type=Path, help="JSON file of all results")
    parser.add_argument("--write-docs", action="store_true", help="table and figure into docs/performance.*")
    parser.add_argument(
        "--from", dest="sessions", nargs="+", type=Path, default=[], metavar="FILE",
        help="with --write-docs: write the results of these files of --out without measuring (of two for one size, the later)",
    )  # fmt: skip
    parser.add_argument(
        "--whole-run", action="store_true", help="measure the wall time of a short run with validations instead"
    )
    parser.add_argument(
        "--cost-of-data", action="store_true", help="measure time and memory of a step with 1x, 10x, 100x data instead"
    )
    parser.add_argument(
        "--steps-too", action="store_true", help="measure the steps as well as --whole-run and --cost-of-data"
    )
    arguments = parser.parse_args()
    if arguments.sessions and not arguments.write_docs:
        parser.error("--from needs --write-docs")
    for name in [*arguments.contenders, *(arguments.bf16_contenders or [])]:
        kind, _, options = name.partition(":")
        if kind not in CONTENDERS or (options and module_of(name) != "ours"):
            parser.error(f"--contenders {name}: choose from {', '.join(CONTENDERS)}; only ours takes options")
    if not (arguments.precision or arguments.sessions):
        arguments.precision = native_precisions()
    return arguments


def native_precisions() -> list[str]:
    """fp32, and bf16 where the machine computes in it."""
    import torch

    from dialog_trainer.build.precision import native_bf16, read_machine

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ["fp32", "bf16"] if native_bf16(read_machine(device)) else ["fp32"]


def build_job(arguments: argparse.Namespace, folder: Path, max_len: int, dropout: float, precision: str) -> Job:
    """The job of which each contender's is a variant."""
    return Job(
        folder=str(folder), max_len=max_len, dropout=dropout, precision=precision, lora=arguments.lora,
        batch_size=arguments.batch_size, lr=1e-4, weight_decay=0.01, max_grad_norm=1.0, threads=arguments.threads,
    )  # fmt: skip


def measure(
    folder: Path, size: str, max_len: int, dropout: float, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yields a row of results for each precision."""
    from peers import material

    steps, rounds = arguments.steps or STEPS[size], arguments.rounds
    # One warm-up round, and the step that ends the last round.
    made = material.write(
        folder, material.SIZES[size], steps=steps, batch_size=arguments.batch_size, max_len=max_len, rounds=rounds + 2
    )
    tokens, trained = made.tokens_of_round(), made.trained_of_round()
    for precision in arguments.precision:
        job = build_job(arguments, folder, max_len, dropout, precision)
        row = setting_of(size, job) | {"steps": steps, "tokens": tokens, "trained": trained, "data": made.data}
        print(
            f"\n{title_of(row)}: {steps} batches of {arguments.batch_size} dialogues of {made.data} a round, "
            f"{tokens:,} tokens, {trained / tokens:.0%} of them trained",
            flush=True,
        )
        asked = arguments.bf16_contenders if precision == "bf16" else None
        names = list(dict.fromkeys([REFERENCE, *(asked or arguments.contenders)]))
        checked, missing = check(names, job, made.reference_loss)
        heats = split_into_heats(checked)
        if len(heats) > 1:
            print(f"the memory holds {len(heats)} heats: {'; '.join(', '.join(heat) for heat in heats)}", flush=True)
        times, ended = run_heats(heats, job, steps, rounds)
        missing |= ended
        rows = rows_of(times, tokens)
        show(rows, missing)
        losses = {name: one["loss"] for name, one in checked.items()}
        yield row | {"contenders": rows, "missing": missing, "loss": losses}


def rows_of(times: dict[str, dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    rows = []
    floor, ours = times.get(FLOOR), statistics.median(times[REFERENCE]["seconds"])
    for name, one in times.items():
        if not one["seconds"]:
            continue
        rates = [tokens / seconds for seconds in one["seconds"]]
        row = {
            "name": name,
            "tokens_per_second": statistics.median(rates), "lowest": min(rates), "highest": max(rates), "rates": rates,
            "ours_is_faster": statistics.median(one["seconds"]) / ours,
            "peak_bytes": one["peak"], "ours_takes_memory": times[REFERENCE]["peak"] / one["peak"],
            "share_of_floor": None, "start_seconds": one["start"], "warm_up_seconds": one["warm_up"],
        }  # fmt: skip
        if floor and floor["seconds"]:
            row["share_of_floor"] = statistics.median(floor["seconds"]) / statistics.median(one["seconds"])
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], missing: dict[str, str]) -> None:
    print(f"  {'':<28}{'tokens/s (lowest to highest)':<36}{'ours/it':>8}{'of floor':>9}{'peak GB':>9}{'ready s':>9}")
    for row in rows:
        rate = f"{row['tokens_per_second']:,.0f} ({row['lowest']:,.0f} to {row['highest']:,.0f})"
        floor = f"{row['share_of_floor']:.2f}" if row["share_of_floor"] else "-"
        print(
            f"  {row['name']:<28}{rate:<36}{row['ours_is_faster']:>7.2f}x{floor:>9}{row['peak_bytes'] / 1e9:>9.2f}"
            f"{ready_seconds(row):>9.1f}"
        )
    if describe_break_even(rows):
        print(f"  {describe_break_even(rows)}")
    for name, reason in missing.items():
        print(f"  {name}: not run: {reason}")
    sys.stdout.flush()


def save(out: dict[str, Any], path: Path | None) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        out["saved"] = time.strftime("%Y-%m-%d %H:%M")
        path.write_text(json.dumps(out, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
