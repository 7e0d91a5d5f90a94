"""Wall time of a short run from the command to its end: tokenizing, training, validations with replies, saving.

Ours runs through the command line, HF Trainer with `generate` over the same contexts (`hf_run.py`), once in its default
evaluation batches of 8 and once in batches as large as ours.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peers import material, ours
from peers.contender import environment
from peers.job import Job, ShortRun, setting_of, title_of

from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sources import Jsonl
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.contexts import build_contexts, sample_dialogues
from dialog_trainer.types import Role

BATCHES, PASSES, NEW = 50, 4, 40
DIALOGUES, REPLY_TOKENS = 100, 8192  # the defaults of metrics.max_dialogues and metrics.generation.batch_tokens
# The tokens in a batch of replies of each peer, None for its default.
PEERS = {"hf": None, "hf-large-batches": REPLY_TOKENS}


def measure_whole_run(size: str, job: Job, rounds: int) -> dict[str, Any]:
    work = Path(job.folder) / f"whole-{size}-{job.max_len}-{job.precision}"
    made = material.write(
        work, material.SIZES[size], steps=BATCHES, batch_size=job.batch_size, max_len=job.max_len, rounds=1
    )
    contexts = _write_contexts(work, job.max_len)
    steps, every = BATCHES * PASSES, BATCHES
    setting = setting_of(size, job)
    print(
        f"\n{title_of(setting)}: {steps} steps, every {every} the loss and {contexts} replies of up to {NEW} tokens",
        flush=True,
    )
    run = ShortRun(**asdict(job) | {"folder": str(work)}, steps=steps, every=every, new_tokens=NEW)
    seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in PEERS}}
    missing: dict[str, str] = {}
    for turn in range(rounds):
        for name in list(seconds)[:: 1 if turn % 2 == 0 else -1]:
            if name in missing:
                continue
            command = _ours(run, turn) if name == "ours" else [sys.executable, "-m", "peers.hf_run"]
            own = replace(run, reply_tokens=PEERS.get(name), output=f"{name}-{turn}")
            log = work / f"{name}-{turn}.log"
            start = time.perf_counter()
            with log.open("w", encoding="utf-8") as file:
                done = subprocess.run(
                    command, input=own.to_json(), text=True, stdout=file, stderr=file, cwd=work,
                    env=environment(work / f"compiled-{name}-{turn}", job.threads), check=False,
                )  # fmt: skip
            if done.returncode:
                missing[name] = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1][:300]
                print(f"  {name}: cannot run here: {missing[name]}", flush=True)
                continue
            seconds[name].append(time.perf_counter() - start)
            print(f"  round {turn + 1}, {name}: {seconds[name][-1]:.1f} s", flush=True)
    faster = {
        name: statistics.median(seconds[name]) / statistics.median(seconds["ours"])
        for name in PEERS
        if seconds[name] and seconds["ours"]
    }
    for name, ratio in faster.items():
        print(f"  ours is {ratio:.2f} times as fast as {name}", flush=True)
    return setting | {
        "steps": steps, "contexts": contexts, "data": made.data,
        "seconds": seconds, "missing": missing, "ours_is_faster": faster,
    }  # fmt: skip


def _ours(job: ShortRun, turn: int) -> list[str]:
    replaced = ("steps=", "validate_every_n_steps=", "data.cache_dir=", "name=")
    kept = [text for text in ours.overrides_of(job) if not text.startswith(replaced)]
    own = [
        f"steps={job.steps}", f"validate_every_n_steps={job.every}", f"metrics.max_dialogues={DIALOGUES}",
        f"metrics.max_new_tokens={NEW}",
        f"metrics.batch_tokens={REPLY_TOKENS}", f"data.cache_dir='{Path(job.folder) / f'cache-{turn}'}'", f"name=run-{turn}",
    ]  # fmt: skip
    return [sys.executable, "-m", "dialog_trainer", *kept, *own]


def _write_contexts(work: Path, max_len: int) -> int:
    """Writes the contexts to which our validation replies, for the peer; returns their number."""
    tokenizer = DialogueTokenizer.pretrained(str(work / "model"))
    path = str(work / "validation.jsonl")
    table = open_dialogues(Jsonl(path, path, None, 0.0), "validation", work / "cache", say=lambda line: None)
    chosen = [table[index] for index in sample_dialogues(table, DIALOGUES)]
    found = [context for one in chosen for context in build_contexts(one, tokenizer, max_len - NEW, {Role.ASSISTANT})]
    rows = [{"ids": context.ids, "reference": context.reference} for context in found]
    (work / "contexts.json").write_text(json.dumps(rows), encoding="utf-8")
    return len(found)
