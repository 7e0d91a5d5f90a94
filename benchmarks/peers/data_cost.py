"""Cost of a step as the corpus grows: time and memory of a small model with 1, 10 and 100 times the synthetic dialogues.

A first start tokenizes each corpus; the second start, which finds it in the cache, is measured. Rounds are interleaved.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers.contender import Contender
from peers.job import Job
from peers.material import SEED, SIZES, synthetic_dialogues

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.model.loading import build_from_scratch

FACTORS, BASE, STEPS = (1, 10, 100), 1_000, 20


def measure_cost_of_data(job: Job, rounds: int) -> list[dict[str, Any]]:
    folder = Path(job.folder)
    print(f"\n0.7M, {BASE:,} synthetic dialogues times {', '.join(map(str, FACTORS))}", flush=True)
    model = folder / "cost-model"
    _write_model(model)
    running: dict[int, Contender] = {}
    rows: dict[int, dict[str, Any]] = {}
    try:
        for factor in FACTORS:
            work = folder / f"cost-{factor}"
            _write_dialogues(work, BASE * factor)
            (work / "model").symlink_to(model)
            own = replace(job, folder=str(work), best=True, compile=False)
            cold = Contender("ours", "ours", own, work)
            cold.close()
            warm = running[factor] = Contender("ours", "ours", own, work)
            warm.round(STEPS)
            rows[factor] = {
                "dialogues": BASE * factor, "precision": job.precision, "cold_start_seconds": cold.start_seconds,
                "warm_start_seconds": warm.start_seconds, "seconds_per_1000_tokens": [],
            }  # fmt: skip
        for _ in range(rounds):
            for factor, contender in running.items():
                report = contender.round(STEPS)
                rows[factor]["seconds_per_1000_tokens"].append(1000 * report["seconds"] / report["tokens"])
                rows[factor] |= {name: report[name] for name in ("peak_bytes", "anonymous_bytes")}
    finally:
        for contender in running.values():
            contender.close()
    first = rows[FACTORS[0]]
    for row in rows.values():
        times = row["seconds_per_1000_tokens"]
        row["time_against_1x"] = statistics.median(times) / statistics.median(first["seconds_per_1000_tokens"])
        row["memory_against_1x"] = (
            row["anonymous_bytes"] / first["anonymous_bytes"] if first["anonymous_bytes"] else None
        )
        print(
            f"  {row['dialogues']:>9,} dialogues: {statistics.median(times) * 1000:.1f} ms for 1,000 tokens "
            f"({min(times) * 1000:.1f} to {max(times) * 1000:.1f}), {row['time_against_1x']:.3f} of 1x; "
            f"private memory {row['anonymous_bytes'] / 1e6:,.0f} MB, {row['memory_against_1x'] or 0:.3f} of 1x; "
            f"resident with mapped files {row['peak_bytes'] / 1e6:,.0f} MB; "
            f"to the first step {row['cold_start_seconds']:.1f} s, "
            f"with tokenized data {row['warm_start_seconds']:.1f} s",
            flush=True,
        )
    return list(rows.values())


def _write_model(folder: Path) -> None:
    size = SIZES["0.7M"]
    assert size.entries
    # A vocabulary of the smallest corpus alone would give that corpus fewer tokens a dialogue than the others.
    texts = (text for turns in synthetic_dialogues(BASE * 10, SEED) for text in turns)
    tokenizer = DialogueTokenizer.train(texts, size.entries)
    build_from_scratch(
        tokenizer, layers=size.layers, heads=size.heads, width=size.width, positions=256, dropout=0.0, seed=SEED
    ).save_pretrained(folder)
    tokenizer.save(folder)


def _write_dialogues(work: Path, count: int) -> None:
    work.mkdir(parents=True)
    for name, number, seed in (("train", count, SEED), ("validation", 20, SEED + 1)):
        with (work / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for turns in synthetic_dialogues(number, seed):
                file.write(json.dumps({"turns": turns}) + "\n")
