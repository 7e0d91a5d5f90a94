"""Measures what saving costs a run: `python benchmarks/saving.py`. Times are reported, not asserted.

A GPT-2 of 10 million weights on synthetic dialogues, without saves, with saves that training waits for, and with saves that
a thread writes; interleaved, each in a process of its own. A save is due every 5 steps.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS, STEPS, EVERY = 3, 40, 5
WAYS = {"no saves": "", "training waits": "saving.COPY_FRACTION = 0", "in a thread": ""}
RUN = """
import resource, sys
from dialog_trainer.cli.commands import saving
from dialog_trainer.cli.main import main
{change}
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_dialogues(Path(folder))
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for index in range(ROUNDS):
            for way in WAYS:
                found[way].append(run(Path(folder), way, f"{way.replace(' ', '-')}-{index}"))
        base = statistics.median(seconds for seconds, _ in found["no saves"])
        for way, runs in found.items():
            seconds = sorted(one for one, _ in runs)
            cost = EVERY * (statistics.median(seconds) - base)
            print(
                f"{way}: {statistics.median(seconds):.3f} s a step ({seconds[0]:.3f} to {seconds[-1]:.3f}), "
                f"{cost:.2f} s a save, peak memory {statistics.median(peak for _, peak in runs):.2f} GB"
            )


def write_dialogues(folder: Path) -> None:
    words = random.Random(0)
    turn = lambda: " ".join(words.choice(["sea", "tea", "sun", "rain", "hat", "cat"]) for _ in range(12))  # noqa: E731
    for split, count in (("train", 2000), ("validation", 2)):
        rows = (json.dumps({"turns": [turn() for _ in range(6)]}) for _ in range(count))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")


def run(folder: Path, way: str, name: str) -> tuple[float, float]:
    """Seconds a step, the first 5 left out, and peak memory in GB."""
    options = [
        "model=gpt2_tiny", "model.layers=6", "model.heads=6", "model.width=384", "data=jsonl", f"project={folder}/runs",
        f"data.train_data_path={folder}/train.jsonl", f"data.validation_data_path={folder}/validation.jsonl",
        f"data.cache_dir={folder}/cache", f"name={name}", f"steps={STEPS}", "batch_size=24", "device=cpu",
        "precision=fp32", "figures.enabled=false", "prediction_print_n=0", f"validate_every_n_steps={STEPS}",
        *([] if way == "no saves" else [f"save_every_n_steps={EVERY}"]),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(change=WAYS[way]), *options], check=True, capture_output=True, text=True
    )
    rows = [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    times = {row["step"]: row["time_seconds"] for row in rows if row["split"] == "train"}
    [peak] = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("peak ")]
    return (times[STEPS - 1] - times[5]) / (STEPS - 6), peak * 1024 / 1e9


if __name__ == "__main__":
    main()
