"""Compares training with other trainers and with bare matrix products: tokens per second and peak memory.

    python benchmarks/training.py                                  # 0.7 M, a few minutes
    python benchmarks/training.py --sizes 0.7M 10M 124M --write-docs --out outputs/training.json
    python benchmarks/training.py --sizes 124M --contenders ours ours:micro_batch_tokens=4096 hf-best
    python benchmarks/training.py --write-docs --from outputs/small.json outputs/large.json    # saved results

Every contender has the same dialogues, weights, mask, optimizer and number of threads, and a process of its own. Before
anything is timed, the loss of each on the first batch must equal that of the plain model. After a warm-up round they run
interleaved, round by round; if the memory does not hold all at once, they run in several heats, ours in each. A round is
a pass over `--steps` batches. Times are reported, not asserted. A contender is one of `CONTENDERS`; ours also takes options
of a run after a colon, joined by `+`. The extra `bench` installs what the peers need.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import machine
from peers.break_even import describe_break_even, ready_seconds
from peers.contender import Contender, Unavailable

# Name: the module in peers/, and the part of its job that differs from the others.
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("ours", {"best": True}),
    "ours-compiled": ("ours", {"best": True, "overrides": ["compile=true"]}),
    "hf": ("hf_trainer", {}),
    "hf-best": ("hf_trainer", {"best": True, "order": "by_length"}),
    "trl": ("trl_sft", {}),
    "trl-best": ("trl_sft", {"best": True, "order": "by_length"}),
    "trl-padding-free": ("trl_sft", {"best": True, "padding_free": True}),
    "original": ("original", {}),
    "floor": ("matrix_products", {"best": True}),
}
# Batches of a round, so that it takes a second or more.
STEPS = {"0.7M": 20, "10M": 10, "124M": 5}
REFERENCE, FLOOR = "ours", "floor"
LOSS_TOLERANCE = 1e-4
# Fraction of the free memory that the contenders of a heat may take together.
MEMORY_FRACTION = 0.9


def main() -> None:
    arguments = parse_arguments()
    sessions = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.sessions]
    if not sessions:
        sessions = [run_measurements(arguments)]
    if arguments.write_docs:
        from peers.page import write_page

        write_page(sessions)


def run_measurements(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {key: getattr(arguments, key) for key in ("batch_size", "rounds", "precision", "lora")}
    out: dict[str, Any] = machine.describe(arguments.threads, settings) | {"steps": []}
    print(", ".join(f"{key} {value}" for key, value in out["machine"].items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="dialog-trainer-bench-") as name:
        if arguments.cost_of_data:
            from peers.data_cost import measure_cost_of_data

            out["cost_of_data"] = measure_cost_of_data(Path(name), build_job(arguments, 128, 0.1), arguments)
            save(out, arguments.out)
        if arguments.whole_run:
            from peers.whole_run import measure_whole_run

            out["whole_run"] = []
            for size in arguments.sizes:
                for max_len in arguments.max_len:
                    job = build_job(arguments, max_len, 0.1)
                    out["whole_run"].append(measure_whole_run(Path(name), size, job, arguments.rounds))
                    save(out, arguments.out)
        if not (arguments.cost_of_data or arguments.whole_run) or arguments.steps_too:
            for size in arguments.sizes:
                for max_len in arguments.max_len:
                    for dropout in arguments.dropout:
                        out["steps"].append(measure(Path(name), size, max_len, dropout, arguments))
                        save(out, arguments.out)
    save(out, arguments.out)
    return out


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["0.7M"], choices=["0.7M", "10M", "124M"])
    parser.add_argument("--max-len", nargs="+", type=int, default=[128])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--lora", action="store_true", help="train an adapter: ours, hf and hf-best alone can")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help=f"batches in a round, at most 50; default: by size {STEPS}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), metavar="NAME", help=", ".join(CONTENDERS))
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
    for name in arguments.contenders:
        kind, _, options = name.partition(":")
        if kind not in CONTENDERS or (options and CONTENDERS[kind][0] != "ours"):
            parser.error(f"--contenders {name}: choose from {', '.join(CONTENDERS)}; only ours takes options")
    return arguments


def build_job(arguments: argparse.Namespace, max_len: int, dropout: float) -> dict[str, Any]:
    """The part of the job that is the same for all contenders."""
    return {
        "max_len": max_len, "dropout": dropout, "precision": arguments.precision, "batch_size": arguments.batch_size,
        "lr": 1e-4, "weight_decay": 0.01, "max_grad_norm": 1.0, "threads": arguments.threads, "order": "given",
        "best": False, "padding_free": False, "lora": arguments.lora, "overrides": [],
    }  # fmt: skip


def measure(folder: Path, size: str, max_len: int, dropout: float, arguments: argparse.Namespace) -> dict[str, Any]:
    from peers import material

    title = f"{size}, max_len {max_len}, dropout {dropout:g}"
    steps, rounds = arguments.steps or STEPS[size], arguments.rounds
    work = folder / f"{size}-{max_len}-{dropout:g}"
    # One warm-up round, and the step that ends the last round.
    made = material.write(
        work, material.SIZES[size], steps=steps, batch_size=arguments.batch_size, max_len=max_len, rounds=rounds + 2
    )
    tokens, trained = made.tokens_of_round(), made.trained_of_round()
    print(
        f"\n{title}: {steps} batches of {arguments.batch_size} dialogues of {made.data} a round, {tokens:,} tokens, "
        f"{trained / tokens:.0%} of them trained",
        flush=True,
    )
    job = build_job(arguments, max_len, dropout) | {"folder": str(work)}
    names = list(dict.fromkeys([REFERENCE, *arguments.contenders]))
    checked, missing = check(names, job, work, made.reference_loss)
    heats = split_into_heats(checked)
    if len(heats) > 1:
        print(f"the memory holds {len(heats)} heats: {'; '.join(', '.join(heat) for heat in heats)}", flush=True)
    times: dict[str, dict[str, Any]] = {}
    for number, heat in enumerate(heats):
        run_heat(number, heat, job, work, steps, rounds, times, missing)
    rows = rows_of(times, tokens)
    show(rows, missing)
    row = {
        "size": size,
        "max_len": max_len,
        "dropout": dropout,
        "steps": steps,
        "tokens": tokens,
        "trained": trained,
        "data": made.data,
    }
    return row | {"contenders": rows, "missing": missing, "loss": {name: one["loss"] for name, one in checked.items()}}


def start_contender(name: str, job: dict[str, Any], folder: Path, **changes: Any) -> Contender:
    """Starts a contender; `changes` override its job."""
    kind, _, options = name.partition(":")
    module, own = CONTENDERS[kind]
    overrides = [*own.get("overrides", []), *filter(None, options.split("+"))]
    return Contender(re.sub(r"[^\w-]", "_", name), module, job | own | {"overrides": overrides} | changes, folder)


def check(names: list[str], job: dict[str, Any], folder: Path, reference: float):
    """Runs one step of each contender without dropout on the same batch.

    Returns the loss and the memory of those that can run, and the reason of each that cannot. Raises `SystemExit` if a loss
    differs from `reference`.
    """
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    for name in names:
        contender = None
        kind = name.partition(":")[0]
        try:
            contender = start_contender(name, job, folder, dropout=0.0, order="given")
            report = contender.round(1)
        except Unavailable as reason:
            missing[name] = str(reason)
            print(f"  {name}: cannot run here: {reason}", flush=True)
            continue
        finally:
            if contender:
                contender.close()
        loss = report["losses"][0]
        found[name] = {"loss": loss, "peak": report["peak_bytes"], "held": report["held_bytes"]}
        if kind == FLOOR:
            continue
        if not abs(loss - reference) <= LOSS_TOLERANCE * (100 if job["precision"] == "bf16" else 1):
            raise SystemExit(
                f"{name}: its loss on the first batch is {loss:.6f}, the plain model's {reference:.6f}; not timed"
            )
        print(f"  {name}: loss {loss:.6f} (plain model {reference:.6f})", flush=True)
    if REFERENCE not in found:
        raise SystemExit(f"{REFERENCE}: {missing[REFERENCE]}")
    return found, missing


def split_into_heats(checked: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Splits the contenders into as few heats as the free memory allows.

    One contender is at its peak at a time; after many steps each of the others holds about the mean of its memory after
    one step and its peak.
    """
    free = machine.available_bytes() * MEMORY_FRACTION
    always = [name for name in (REFERENCE, FLOOR) if name in checked]
    heats: list[list[str]] = [list(always)]
    for name in checked:
        if name in always:
            continue
        heat = [*heats[-1], name]
        kept = {one: (checked[one]["held"] + checked[one]["peak"]) / 2 for one in heat}
        need = sum(kept.values()) + max(checked[one]["peak"] - kept[one] for one in heat)
        if need > free and len(heats[-1]) > len(always):
            heats.append([*always, name])
        else:
            heats[-1].append(name)
    return heats


def run_heat(number, heat, job, folder, steps, rounds, times, missing) -> None:
    """Runs a warm-up round of each contender of a heat, then the interleaved rounds; adds to `times`."""
    running: dict[str, Contender] = {}
    try:
        for name in heat:
            try:
                contender = running[name] = start_contender(name, job, folder)
                warm = contender.round(steps)
            except Unavailable as reason:
                missing[name] = str(reason)
                running.pop(name, None)
                print(f"  {name}: cannot run here: {reason}", flush=True)
                continue
            one = times.setdefault(name, {"seconds": [], "start": contender.start_seconds, "warm_up": warm["seconds"]})
            one["peak"] = max(one.get("peak", 0), warm["peak_bytes"])
        for turn in range(rounds):
            order = list(running)
            first = turn % max(1, len(order))
            order = order[first:] + order[:first]
            seconds = {}
            for name in order:
                try:
                    report = running[name].round(steps)
                except Unavailable as reason:
                    if name == REFERENCE:
                        raise SystemExit(f"{name}: {reason}") from None
                    missing[name] = str(reason)
                    running.pop(name).close()
                    print(f"  {name}: ended in round {turn + 1}: {reason}", flush=True)
                    continue
                seconds[name] = report["seconds"]
                times[name]["seconds"].append(report["seconds"])
                times[name]["peak"] = max(times[name]["peak"], report["peak_bytes"])
            print(
                f"  heat {number + 1}, round {turn + 1}: " + ", ".join(f"{n} {s:.2f} s" for n, s in seconds.items()),
                flush=True,
            )
    finally:
        for contender in running.values():
            contender.close()


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
