"""Runs the contenders of one table: compares their losses, then lets them take turns, as many at once as the memory holds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers import machine
from peers.contender import Contender, Unavailable
from peers.job import Job

# Name: the module in peers/, and the fields of its job that differ from the others.
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("ours", {"best": True}),
    "ours-compiled": ("ours", {"best": True, "compile": True}),
    "hf": ("hf_trainer", {}),
    "hf-best": ("hf_trainer", {"best": True, "compile": True, "order": "by_length"}),
    "trl": ("trl_sft", {}),
    "trl-best": ("trl_sft", {"best": True, "compile": True, "order": "by_length"}),
    "trl-padding-free": ("trl_sft", {"best": True, "compile": True, "padding_free": True}),
    "original": ("original", {}),
    "floor": ("matrix_products", {"best": True}),
}
REFERENCE, FLOOR = "ours", "floor"
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}
# Fraction of the free memory that the contenders of a heat may take together.
MEMORY_FRACTION = 0.9


def job_of(name: str, job: Job) -> Job:
    """`job` as this contender does it; after a colon its name has options of a run."""
    kind, _, options = name.partition(":")
    return replace(job, **CONTENDERS[kind][1], overrides=(*job.overrides, *filter(None, options.split("+"))))


def module_of(name: str) -> str:
    return CONTENDERS[name.partition(":")[0]][0]


def start(name: str, own: Job) -> Contender:
    """Starts a contender with its own job."""
    return Contender(re.sub(r"[^\w-]", "_", name), module_of(name), own, Path(own.folder))


def check(names: list[str], job: Job, reference: float) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Runs one step of each contender, without dropout and not compiled, on the same batch.

    Contenders that then do the same are run once. Returns the loss and the memory in bytes of those that can run, and the
    reason of each that cannot. Raises `SystemExit` if a loss differs from `reference`.
    """
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    of_job: dict[tuple[str, Job], dict[str, Any]] = {}
    for name in names:
        own = replace(job_of(name, job), dropout=0.0, order="given", compile=False)
        key = (module_of(name), own)
        try:
            found[name] = of_job[key] = of_job.get(key) or _first_step(name, own)
        except Unavailable as reason:
            missing[name] = str(reason)
            print(f"  {name}: cannot run here: {reason}", flush=True)
            continue
        if name == FLOOR:
            continue
        loss = found[name]["loss"]
        if not abs(loss - reference) <= LOSS_TOLERANCE[job.precision]:
            raise SystemExit(
                f"{name}: its loss on the first batch is {loss:.6f}, the plain model's {reference:.6f}; not timed"
            )
        print(f"  {name}: loss {loss:.6f} (plain model {reference:.6f})", flush=True)
    if REFERENCE not in found:
        raise SystemExit(f"{REFERENCE}: {missing[REFERENCE]}")
    return found, missing


def _first_step(name: str, own: Job) -> dict[str, Any]:
    contender = start(name, own)
    try:
        report = contender.round(1)
    finally:
        contender.close()
    return {"loss": report["losses"][0], "peak": report["peak_bytes"], "held": report["held_bytes"]}


def split_into_heats(checked: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Splits the contenders into as few heats as the free memory allows, ours in each.

    One contender is at its peak at a time; after many steps each of the others holds about the mean of its memory after
    one step and its peak.
    """
    free = machine.available_bytes() * MEMORY_FRACTION
    heats: list[list[str]] = [[REFERENCE]]
    for name in checked:
        if name == REFERENCE:
            continue
        heat = [*heats[-1], name]
        kept = {one: (checked[one]["held"] + checked[one]["peak"]) / 2 for one in heat}
        need = sum(kept.values()) + max(checked[one]["peak"] - kept[one] for one in heat)
        if need > free and len(heats[-1]) > 1:
            heats.append([REFERENCE, name])
        else:
            heats[-1].append(name)
    return heats


def run_heats(heats: list[list[str]], job: Job, steps: int, rounds: int) -> tuple[dict[str, dict], dict[str, str]]:
    """The times of each contender, and the reason of each that cannot run.

    One that ends in a heat with others, as where the memory holds fewer than was thought, has another heat with ours alone.
    """
    times: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    heats = list(heats)
    for number, heat in enumerate(heats):
        ended = run_heat(number, heat, job, steps, rounds, times)
        if len(heat) > 2:
            heats += [[REFERENCE, name] for name in ended]
        else:
            missing |= ended
    return times, missing


def run_heat(number: int, heat: list[str], job: Job, steps: int, rounds: int, times: dict[str, dict]) -> dict[str, str]:
    """Runs a warm-up round of each contender of a heat, then the interleaved rounds; adds to `times`.

    Returns those that ended, with the reason.
    """
    running: dict[str, Contender] = {}
    ended: dict[str, str] = {}
    try:
        for name in heat:
            try:
                contender = running[name] = start(name, job_of(name, job))
                warm = contender.round(steps)
            except Unavailable as reason:
                ended[name] = str(reason)
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
                    ended[name] = str(reason)
                    del times[name]
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
    return ended
