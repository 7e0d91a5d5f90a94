"""Compares training steps of one process with two threads and of two processes with one thread each, on two CPU cores.

    python benchmarks/processes.py                  # 124 M parameters
    python benchmarks/processes.py --size tiny      # model=gpt2_tiny

The dialogues are DailyDialog's training split (where DIALOG_TRAINER_TEST_DATA is set) or chitchat's: 24 in a batch, at
most 128 tokens each, only the assistant's turns, dropout 0.1, fp32. Both run interleaved, each time in new processes, and
do the same steps. Times are reported, not asserted. Run it on an idle machine.

The computation time of a process is the CPU time of its thread. Its waiting time in a step is the largest computation time
of a process minus its own. The all-reduce of the gradients is also measured alone, without computation.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import random_gpt2
import torch
from transformers.utils import logging

from dialog_trainer.build.data import load_dialogues, load_tokenizer, tokenize_split
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.model import build_model
from dialog_trainer.build.optimization import TrainingPlan, build_optimizer, plan_training
from dialog_trainer.build.runtime import (
    build_autocast,
    build_grad_scaler,
    configure_torch,
    parallelize_loss,
    resolve_compile,
    select_device,
)
from dialog_trainer.cli.compose import compose_runs
from dialog_trainer.cli.overrides import prepare_overrides
from dialog_trainer.config.schema import Config
from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.distributed.launcher import launch_local
from dialog_trainer.distributed.store import ControlStore
from dialog_trainer.seeds import derive_seed
from dialog_trainer.training.loop import Learner, train_step

THREADS = 2
# Warm-up steps of each process, not counted.
WARM_UP = 1
# Bucket size of torch's DistributedDataParallel.
BUCKET_BYTES = 25 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["124m", "tiny"], default="124m")
    parser.add_argument("--steps", type=int, help="counted steps of each round; default: 5, or 50 with --size tiny")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    steps = arguments.steps or {"124m": 5, "tiny": 50}[arguments.size]
    print(f"load {os.getloadavg()[0]:.1f}, {collectives.count_cores()} cores, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, data = compose_config(
            model_options(arguments.size, folder),
            folder,
            "device=cpu",
            "precision=fp32",
            "model.dropout=0.1",
            "batch_size=24",
            "train_user_turn_mask_step=0",
        )
        rounds: dict[int, list[dict]] = {1: [], 2: []}
        for number in range(arguments.rounds):
            for size, found in rounds.items():
                found.append(measure(config, size, first=number * steps, steps=steps))
    print(f"{arguments.size}, {data}: {arguments.rounds} rounds of {steps} steps\n")
    print(table(rounds[1], rounds[2]))


def model_options(size: str, folder: Path) -> list[str]:
    """Options of a model of that size; for 124 M parameters it writes random weights into `folder`."""
    if size == "tiny":
        return ["model=gpt2_tiny"]
    logging.disable_progress_bar()
    random_gpt2.write(folder / "gpt2", layers=12, heads=12, width=768)
    return ["model=gpt2", f"model.pretrained_model={folder / 'gpt2'}"]


def run_options(model: list[str], folder: Path) -> tuple[list[str], str]:
    """Options of a run that writes only into `folder`, and the name of its data."""
    data = os.environ.get("DIALOG_TRAINER_TEST_DATA")
    source = ["data=dailydialog", f"data.path={Path(data) / 'dailydialog'}"] if data else ["data=chitchat"]
    places = [f"project={folder / 'runs'}", f"data.cache_dir={folder / 'cache'}"]
    schedule = ["schedule_steps=1000000", "scheduler=constant", "scheduler.warmup_steps=0"]
    return [*model, *source, *places, *schedule], "DailyDialog" if data else "chitchat"


def compose_config(model: list[str], folder: Path, *overrides: str) -> tuple[Config, str]:
    """Configuration of a run whose tokens it writes into `folder`, and the name of its data."""
    options, data = run_options(model, folder)
    config = compose_runs(prepare_overrides([*options, *overrides]), None, sweep=False)[0].config
    tokenize_training(config)
    return config, data


def tokenize_training(config: Config) -> tuple[TokenDataset, DialogueTokenizer]:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    training = load_dialogues(config, "train", say=lambda line: None)
    tokenizer, config = load_tokenizer(config, training, say=lambda line: None)
    return tokenize_split(config, training, tokenizer, say=lambda line: None).tokens, tokenizer


def build_plan(config: Config, tokens: TokenDataset, device: torch.device) -> TrainingPlan:
    """The plan of a run over all sequences."""
    return plan_training(config, tokens, np.arange(len(tokens)), build_mask(config), device)


def measure(config: Config, size: int, *, first: int, steps: int, warm_up: int = WARM_UP) -> dict:
    """Trains `steps` steps from `first` on in `size` new processes.

    Returns `steps`, a list of `(processes, 4)` with the tokens of all processes, the loss, wall seconds and CPU seconds;
    `exchange`, the seconds of an all-reduce; the number of `parameters`; and `peak_bytes` of the first process.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "found.json"
        task = {"config": config.to_dict(), "first": first, "steps": steps, "warm_up": warm_up, "place": str(place)}
        code = launch_local(size, None, _work, json.dumps(task))
        if code:
            raise SystemExit(code)
        return json.loads(place.read_text(encoding="utf-8"))


def _work(control: ControlStore, argument: str) -> int:
    task = json.loads(argument)
    config = Config.from_dict(task["config"])
    with collectives.join_process_group(control, 600) if control.rank_info.size > 1 else nullcontext():
        if config.device == "cpu":
            torch.set_num_threads(max(1, THREADS // collectives.world_size()))
        found = _steps(config, task["first"], task["steps"], task["warm_up"])
        if collectives.is_rank0():
            Path(task["place"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


def _steps(config: Config, first: int, steps: int, warm_up: int) -> dict:
    device = select_device(config)
    configure_torch(config.deterministic)
    tokens, tokenizer = tokenize_training(config)
    model = build_model(config, tokenizer, device, say=lambda line: None)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    plan = build_plan(config, tokens, device)
    config = resolve_compile(config, model, device, say=lambda line: None)
    loss = parallelize_loss(config, model, device)
    learner = Learner(
        loss, build_optimizer(config, model), build_grad_scaler(config, device), build_autocast(config, device)
    )
    rows = []
    for step in [*[first] * warm_up, *range(first, first + steps)]:
        collectives.any_rank(False)  # a barrier
        torch.manual_seed(derive_seed("step", config.seed, step, collectives.rank()))
        clock, processor = time.perf_counter(), time.thread_time()
        report = train_step(
            learner,
            list(plan.batches(step)),
            step=step,
            lr=plan.learning_rate(step),
            max_grad_norm=config.max_grad_norm,
        )
        rows.append([report.tokens, report.loss, time.perf_counter() - clock, time.thread_time() - processor])
    of_all = collectives.all_gather_objects(rows[warm_up:])
    return {
        "steps": list(zip(*of_all, strict=True)),
        "exchange": _exchange(parameters, device) if collectives.world_size() > 1 else 0.0,
        "parameters": parameters,
        "peak_bytes": peak_bytes(device),
    }


def peak_bytes(device: torch.device) -> int:
    """The largest memory of this process so far: of a GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _exchange(parameters: int, device: torch.device, times: int = 3) -> float:
    """Median seconds to all-reduce so many numbers, a bucket at a time."""
    numbers = BUCKET_BYTES // 4
    buckets = [numbers] * (parameters // numbers) + [parameters % numbers]
    values = torch.ones(numbers, device=device)
    seconds = []
    for _ in range(times):
        collectives.any_rank(False)
        start = time.perf_counter()
        for bucket in buckets:
            collectives.all_reduce_sum(values[:bucket])
        float(values[0])  # wait for a GPU
        seconds.append(time.perf_counter() - start)
        values.fill_(1.0)
    return statistics.median(seconds)


def rate(found: dict) -> float:
    """Real tokens per second of one round. A step takes as long as its slowest process."""
    return sum(rows[0][0] for rows in found["steps"]) / sum(max(row[2] for row in rows) for rows in found["steps"])


def waiting(found: dict) -> list[float]:
    """For each step, the proportion of the computation time in which a process waits for the slowest, on average."""
    computed = [[row[3] for row in rows] for rows in found["steps"]]
    return [1 - statistics.mean(seconds) / max(seconds) for seconds in computed]


def table(one: list[dict], two: list[dict]) -> str:
    rates = {"1 process, 2 threads": list(map(rate, one)), "2 processes, 1 thread each": list(map(rate, two))}
    ratios = [after / before for before, after in zip(*rates.values(), strict=True)]
    steps = [rows for found in two for rows in found["steps"]]
    computed = [statistics.median(rows[rank][3] for rows in steps) for rank in range(2)]
    longest = statistics.median(max(row[3] for row in rows) for rows in steps)
    whole = statistics.median(max(row[2] for row in rows) for rows in steps)
    lines = [f"{name:27} {middle(values, '.0f')} real tokens per second" for name, values in rates.items()]
    return "\n".join(
        [
            *lines,
            f"{'2 processes / 1 process':27} {middle(ratios, '.2f')}",
            "",
            f"A step of two processes, of {statistics.median(rows[0][0] for rows in steps):.0f} tokens (medians):",
            f"{'  the step':27} {whole:.3f} s",
            f"{'  each computes':27} {computed[0]:.3f} and {computed[1]:.3f} s, the longer {longest:.3f} s",
            f"{'  waits for the other':27} {middle([share for found in two for share in waiting(found)], '.1%')}",
            f"{'  all-reduce, exposed':27} {whole - longest:.3f} s ({1 - longest / whole:.1%} of the step)",
            f"{'  all-reduce, alone':27} {middle([found['exchange'] for found in two], '.3f')} s, "
            f"{two[0]['parameters'] * 4 / 2**20:,.0f} MiB of gradients",
        ]
    )


def middle(values: Iterable[float], form: str) -> str:
    """The median and the range of the values."""
    values = list(values)
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
