"""Compares one process of two threads with two processes of one thread each: the steps of a training on two CPU cores.

    python benchmarks/processes.py                  # 124 M parameters
    python benchmarks/processes.py --size tiny      # those of model=gpt2_tiny

The dialogues are DailyDialog's training split (where DIALOG_TRAINER_TEST_DATA is set) or chitchat's: 24 in a batch, at
most 128 tokens each, the assistant's turns alone, dropout 0.1, fp32. Both ways take turns, each time in new processes,
and do the same steps; nothing is asserted. Run it where nothing else runs: what others take is missing here.

A process computes as long as its thread is on a processor. What it waits for another one is the largest such time of a
step less its own; the exchange of the gradients is also measured alone, with nothing to compute beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import random_gpt2
import torch
from transformers.utils.logging import disable_progress_bar

from dialog_trainer.build.data import load_dialogues, load_tokenizer, tokenize_split
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.model import build_model
from dialog_trainer.build.optimization import TrainingPlan, build_optimizer, plan_training
from dialog_trainer.build.runtime import (
    build_autocast,
    build_grad_scaler,
    configure_torch,
    parallelize_loss,
    select_device,
)
from dialog_trainer.cli.compose import compose_jobs, quote_overrides
from dialog_trainer.cli.quiet import silence_libraries
from dialog_trainer.config.options import Settings
from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.distributed.launcher import launch_local
from dialog_trainer.distributed.store import ControlStore
from dialog_trainer.training.loop import Learner, train_step

THREADS = 2
# Steps at the start of each process that are not counted.
WARM_UP = 1
# As in torch's DistributedDataParallel, which sends gradients in pieces of so many bytes.
BUCKET_BYTES = 25 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["124m", "tiny"], default="124m")
    parser.add_argument("--steps", type=int, help="counted in each round, of each way; default: 5, or 50 where tiny")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    steps = arguments.steps or {"124m": 5, "tiny": 50}[arguments.size]
    print(f"load {os.getloadavg()[0]:.1f}, {collectives.count_cores()} cores, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings, data = settings_of(
            model_of(arguments.size, folder),
            folder,
            "device=cpu",
            "model.dropout=0.1",
            "batch_size=24",
            "train_user_turn_mask_step=0",
        )
        rounds: dict[int, list[dict]] = {1: [], 2: []}
        for number in range(arguments.rounds):
            for size, found in rounds.items():
                found.append(measured(settings, size, first=number * steps, steps=steps))
    print(f"{arguments.size}, {data}: {arguments.rounds} rounds of {steps} steps\n")
    print(table(rounds[1], rounds[2]))


def model_of(size: str, folder: Path) -> list[str]:
    """The options of a model of that size; that of 124 M parameters has random weights, in `folder`."""
    if size == "tiny":
        return ["model=gpt2_tiny"]
    disable_progress_bar()
    random_gpt2.write(folder / "gpt2", layers=12, heads=12, width=768)
    return ["model=gpt2", f"model.pretrained_model={folder / 'gpt2'}"]


def options_of(model: list[str], folder: Path) -> tuple[list[str], str]:
    """The options of a run that leaves everything in `folder`, and the name of its data."""
    data = os.environ.get("DIALOG_TRAINER_TEST_DATA")
    source = ["data=dailydialog", f"data.path={Path(data) / 'dailydialog'}"] if data else ["data=chitchat"]
    places = [f"project={folder / 'runs'}", f"data.cache_dir={folder / 'cache'}"]
    schedule = ["schedule_steps=1000000", "scheduler=constant", "scheduler.warmup_steps=0"]
    return [*model, *source, *places, *schedule], "DailyDialog" if data else "chitchat"


def settings_of(model: list[str], folder: Path, *overrides: str) -> tuple[Settings, str]:
    """The settings of a run whose tokens are in `folder` from now on, and the name of its data."""
    options, data = options_of(model, folder)
    settings = compose_jobs(quote_overrides([*options, *overrides]), None, sweep=False)[0]
    tokens_of(settings)
    return settings, data


def tokens_of(settings: Settings) -> tuple[TokenDataset, DialogueTokenizer]:
    silence_libraries()
    training = load_dialogues(settings, "train", say=lambda line: None)
    tokenizer = load_tokenizer(settings, training, say=lambda line: None)
    return tokenize_split(settings, training, tokenizer, "split").tokens, tokenizer


def plan_of(settings: Settings, tokens: TokenDataset, device: torch.device) -> TrainingPlan:
    """That of a run, over all sequences."""
    return plan_training(settings, tokens, np.arange(len(tokens)), build_mask(settings), device)


def measured(settings: Settings, size: int, *, first: int, steps: int, warm_up: int = WARM_UP) -> dict:
    """What `size` new processes found in `steps` steps from `first` on: `steps`, a list of `(processes, 4)` of tokens
    of all, loss, seconds by the clock and by the processor; `exchange`, seconds; `parameters`."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "found.json"
        task = {"settings": settings, "first": first, "steps": steps, "warm_up": warm_up, "place": str(place)}
        code = launch_local(size, None, _work, json.dumps(task))
        if code:
            raise SystemExit(code)
        return json.loads(place.read_text(encoding="utf-8"))


def _work(control: ControlStore, argument: str) -> int:
    task = json.loads(argument)
    with collectives.join_process_group(control, 600) if control.rank_info.size > 1 else nullcontext():
        if task["settings"]["device"] == "cpu":
            torch.set_num_threads(max(1, THREADS // collectives.world_size()))
        found = _steps(task["settings"], task["first"], task["steps"], task["warm_up"])
        if collectives.is_rank0():
            Path(task["place"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


def _steps(settings: Settings, first: int, steps: int, warm_up: int) -> dict:
    device = select_device(settings)
    configure_torch(settings["deterministic"])
    tokens, tokenizer = tokens_of(settings)
    model = build_model(settings, tokenizer, device, say=lambda line: None)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    plan = plan_of(settings, tokens, device)
    loss = parallelize_loss(settings, model, device)
    learner = Learner(
        loss, build_optimizer(settings, model), build_grad_scaler(settings, device), build_autocast(settings, device)
    )
    rows = []
    for step in [*[first] * warm_up, *range(first, first + steps)]:
        collectives.any_rank(False)  # all begin together
        torch.manual_seed(derive_seed("step", settings["seed"], step, collectives.rank()))
        clock, processor = time.perf_counter(), time.thread_time()
        report = train_step(
            learner,
            list(plan.batches(step)),
            step=step,
            lr=plan.learning_rate(step),
            max_grad_norm=settings["max_grad_norm"],
        )
        rows.append([report.tokens, report.loss, time.perf_counter() - clock, time.thread_time() - processor])
    of_all = collectives.all_gather_objects(rows[warm_up:])
    return {
        "steps": list(zip(*of_all, strict=True)),
        "exchange": _exchange(parameters, device) if collectives.world_size() > 1 else 0.0,
        "parameters": parameters,
    }


def _exchange(parameters: int, device: torch.device, times: int = 3) -> float:
    """Seconds to sum so many numbers over the processes, a bucket at a time; the median."""
    numbers = BUCKET_BYTES // 4
    buckets = [numbers] * (parameters // numbers) + [parameters % numbers]
    values = torch.ones(numbers, device=device)
    seconds = []
    for _ in range(times):
        collectives.any_rank(False)
        start = time.perf_counter()
        for bucket in buckets:
            collectives.all_reduce_sum(values[:bucket])
        float(values[0])  # of a GPU too, wait for it
        seconds.append(time.perf_counter() - start)
        values.fill_(1.0)
    return statistics.median(seconds)


def rate(found: dict) -> float:
    """Real tokens a second of one round. Each step takes as long as the last of its processes does."""
    return sum(rows[0][0] for rows in found["steps"]) / sum(max(row[2] for row in rows) for rows in found["steps"])


def waiting(found: dict) -> list[float]:
    """Of each step, the share of the processes' time for computing in which they wait for the one with most to do."""
    computed = [[row[3] for row in rows] for rows in found["steps"]]
    return [1 - statistics.mean(seconds) / max(seconds) for seconds in computed]


def table(one: list[dict], two: list[dict]) -> str:
    rates = {"1 process, 2 threads": list(map(rate, one)), "2 processes, 1 thread each": list(map(rate, two))}
    ratios = [after / before for before, after in zip(*rates.values(), strict=True)]
    steps = [rows for found in two for rows in found["steps"]]
    computed = [statistics.median(rows[rank][3] for rows in steps) for rank in range(2)]
    longest = statistics.median(max(row[3] for row in rows) for rows in steps)
    whole = statistics.median(max(row[2] for row in rows) for rows in steps)
    lines = [f"{name:27} {middle(values, '.0f')} real tokens a second" for name, values in rates.items()]
    return "\n".join(
        [
            *lines,
            f"{'2 processes / 1 process':27} {middle(ratios, '.2f')}",
            "",
            f"A step of two processes, of {statistics.median(rows[0][0] for rows in steps):.0f} tokens (medians):",
            f"{'  the step':27} {whole:.3f} s",
            f"{'  each computes':27} {computed[0]:.3f} and {computed[1]:.3f} s, the longer {longest:.3f} s",
            f"{'  waits for the other':27} {middle([share for found in two for share in waiting(found)], '.1%')}",
            f"{'  exchange, not hidden':27} {whole - longest:.3f} s ({1 - longest / whole:.1%} of the step)",
            f"{'  exchange, alone':27} {middle([found['exchange'] for found in two], '.3f')} s, "
            f"{two[0]['parameters'] * 4 / 2**20:,.0f} MiB of gradients",
        ]
    )


def middle(values: Iterable[float], form: str) -> str:
    """The median, and from where to where the values go."""
    values = list(values)
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
