"""Predicts how training scales over processes from a few measured numbers: prints the tables of docs/scaling.md.

    python benchmarks/scaling.py                      # parallel=ddp
    python benchmarks/scaling.py --parallel fsdp
    python benchmarks/scaling.py --tokens-per-second 150 --loopback 1.2e9

The speed of a process and the bandwidth between two are arguments; benchmarks/processes.py measures them. Measured here,
on one core: the tokens per second of the data path, and the time to split a batch over processes. Everything else is
arithmetic. It ignores latency, which matters when many processes send little.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import random_gpt2
import torch
from processes import build_plan, compose_config, tokenize_training
from transformers.utils.logging import disable_progress_bar

from dialog_trainer.data.sampler import global_batch_indices, local_shard

# Layers and width of the four sizes of GPT-2.
SIZES = {"gpt2": (12, 768), "gpt2-medium": (24, 1024), "gpt2-large": (36, 1280), "gpt2-xl": (48, 1600)}
PROCESSES = (1, 2, 4, 8, 16, 64, 256, 1024)
# The backward pass takes two thirds of the time of a step.
BACKWARD = 2 / 3
FP32 = 4
# Bytes a parameter in fp32: the weight, its gradient, and the two moments of Adam.
STATE = 4 * FP32


@dataclass(frozen=True, slots=True)
class Model:
    """Numbers of parameters: all, and those that `fsdp` holds gathered at a time."""

    parameters: int
    gathered: int

    @staticmethod
    def gpt2(layers: int, width: int) -> Model:
        """GPT-2 with the three dialogue tokens: token and position embeddings, and its blocks."""
        outermost, block = (50_260 + 1_024 + 2) * width, 12 * width**2 + 13 * width
        return Model(outermost + layers * block, outermost + block)


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of one process (tokens per second) and bandwidth to the others (bytes per second)."""

    name: str
    tokens: float
    bytes: float


def sent(parallel: str, parameters: int, processes: int, micro_batches: int = 1) -> float:
    """Bytes that each process sends in a step with ring collectives; it receives as many.

    `ddp` all-reduces the gradients once. `fsdp` all-gathers the weights for each forward and each backward pass, and
    reduce-scatters the gradients once. Its outermost part may stay gathered, so this is an upper bound.
    """
    passes = 2 if parallel == "ddp" else 2 * micro_batches + 1
    return passes * (processes - 1) / processes * FP32 * parameters


def hidden(parallel: str, compute: float, micro_batches: int) -> float:
    """Seconds of computation that can overlap with communication: the last backward pass, or with `fsdp` the whole step."""
    return compute * BACKWARD / micro_batches if parallel == "ddp" else compute


def efficiency(compute: float, exchange: float, overlap: float = 0.0) -> float:
    """Proportion of a step in which a process computes, if `overlap` seconds of it hide communication."""
    return compute / (compute + max(0.0, exchange - overlap))


def state(parallel: str, model: Model, processes: int) -> float:
    """Bytes on each device for weights, gradients and optimizer state in training, without activations."""
    if parallel == "ddp" or processes == 1:
        return STATE * model.parameters
    # A gathered part has all its weights, and then all its gradients until they are reduced.
    return STATE * model.parameters / processes + 2 * FP32 * model.gathered


def state_in_validation(model: Model, processes: int) -> float:
    """The same for `fsdp` in a validation, when each process gathers all weights to generate replies."""
    return STATE * model.parameters / processes + FP32 * model.parameters * (processes > 1)


def balance(lengths: Sequence[int], processes: int) -> float:
    """Load balance: mean over largest number of tokens that a process gets of a batch of these lengths."""
    tokens = [sum(int(lengths[place]) for place in local_shard(lengths, processes, rank)) for rank in range(processes)]
    return statistics.mean(tokens) / max(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp", help="for the tables of efficiency")
    parser.add_argument("--layers", type=int, default=12, help="of a GPT-2")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch-size", type=int, default=60)
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--tokens-per-second", type=float, default=172.0, help="measured, of one thread")
    parser.add_argument(
        "--loopback", type=float, default=1.11e9, help="measured: bytes per second between two processes"
    )
    parser.add_argument("--gpu-flops", type=float, default=312e12, help="peak of a GPU; default: A100, bf16")
    parser.add_argument("--mfu", type=float, default=0.4, help="the utilization of that peak: assumed")
    arguments = parser.parse_args()
    model = Model.gpt2(arguments.layers, arguments.width)
    gpu = arguments.gpu_flops * arguments.mfu / (6 * model.parameters)
    core = arguments.tokens_per_second
    speeds = [
        Speed("core, loopback", core, arguments.loopback),
        Speed("core, 10 GbE", core, 1.25e9),
        Speed("GPU, 10 GbE", gpu, 1.25e9),
        Speed("GPU, 100 GbE", gpu, 12.5e9),
        Speed("GPU, NVLink", gpu, 300e9),
    ]
    print(f"load {os.getloadavg()[0]:.1f}\n", flush=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        lengths, batches, data_rate = _data_path(Path(name), arguments.batch_size)
    tokens = statistics.mean(sum(one) for one in batches)
    print(f"A core computes {core:,.0f} tokens a second, a GPU {gpu:,.0f}; a batch has {tokens:,.0f} tokens.\n")
    print(_costs(model, arguments.loopback) + "\n")
    print(_memory() + "\n")
    print(
        f"Strong scaling, the same global batch ({arguments.batch_size} dialogues, {tokens:,.0f} tokens), "
        f"parallel={arguments.parallel}:\n"
    )
    rows = []
    for count in PROCESSES:
        if count <= arguments.batch_size:
            even = statistics.mean(balance(one, count) for one in batches)
            cells = _efficiencies(arguments, model, speeds, count, tokens / count, even)
            rows.append([str(count), f"{arguments.batch_size / count:.1f}", f"{even:.0%}", *cells])
        else:
            rows.append([str(count), "-", "-", *["-"] * len(speeds)])
    names = [speed.name for speed in speeds]
    print(_markdown(["processes", "dialogues each", "load balance", *names], rows) + "\n")
    print(
        f"Weak scaling, a batch for each process ({arguments.batch_size} dialogues), parallel={arguments.parallel}:\n"
    )
    rows = []
    for count in PROCESSES:
        cells = _efficiencies(arguments, model, speeds, count, tokens, 1.0)
        rows.append(
            [
                str(count),
                f"{count * tokens:,.0f}",
                f"{1000 * _splitting_seconds(lengths, count * arguments.batch_size, count):.1f} ms",
                *cells,
            ]
        )
    print(_markdown(["processes", "tokens a step", "splitting the batch", *names], rows) + "\n")
    with_most = _splitting_seconds(lengths, PROCESSES[-1] * arguments.batch_size, PROCESSES[-1])
    print(
        f"The data path makes batches at {data_rate:,.0f} tokens a second on one core. Each process makes its own, which "
        f"takes {core / data_rate:.3%} of the time of a core's step and {gpu / data_rate:.1%} of a GPU's, for any number "
        f"of processes; 10% at {data_rate / 10:,.0f} tokens a second of a process. Each process splits the whole batch: "
        f"with a batch for each of {PROCESSES[-1]:,} processes this takes {with_most:.3f} s, while a GPU computes for "
        f"{tokens / gpu:.3f} s."
    )


def _data_path(folder: Path, batch_size: int, batches: int = 200) -> tuple[np.ndarray, list[list[int]], float]:
    """Lengths of all training sequences, those of some batches, and the tokens per second of the data path."""
    disable_progress_bar()
    random_gpt2.write(folder / "gpt2", layers=1, heads=1, width=8)
    options = ["model=gpt2", f"model.pretrained_model={folder / 'gpt2'}"]
    config, _ = compose_config(options, folder, "device=cpu", f"batch_size={batch_size}", "train_user_turn_mask_step=0")
    tokens, _ = tokenize_training(config)
    plan = build_plan(config, tokens, torch.device("cpu"))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        count = sum(len(batch.ids) for step in range(batches) for batch in plan.batches(step))
        times.append((time.perf_counter() - start) / count)
    drawn = [tokens.lengths[global_batch_indices(0, step, len(tokens), batch_size)].tolist() for step in range(20)]
    return tokens.lengths, drawn, 1 / min(times)


def _splitting_seconds(lengths: np.ndarray, size: int, processes: int) -> float:
    """Seconds that a process takes to find its part of a batch of so many dialogues."""
    batch = np.resize(lengths, size)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        local_shard(batch, processes, 0)
        times.append(time.perf_counter() - start)
    return min(times)


def _costs(model: Model, loopback: float) -> str:
    ways = {"loopback": loopback, "10 GbE": 1.25e9, "100 GbE": 12.5e9, "NVLink": 300e9}
    rows = []
    for count in PROCESSES:
        both = [sent(parallel, model.parameters, count) for parallel in ("ddp", "fsdp")]
        seconds = [" / ".join(_short(one / speed) for one in both) for speed in ways.values()]
        rows.append([str(count), " / ".join(f"{one / 1e9:.2f}" for one in both), *seconds])
    return _markdown(["processes", "GB sent, ddp / fsdp", *(f"s, {name}" for name in ways)], rows)


def _memory() -> str:
    models = [Model.gpt2(*sizes) for sizes in SIZES.values()]
    rows = []
    for count in PROCESSES:
        bytes_of = [
            (state("ddp", model, count), state("fsdp", model, count), state_in_validation(model, count))
            for model in models
        ]
        rows.append([str(count), *(" / ".join(f"{one / 2**30:.1f}" for one in each) for each in bytes_of)])
    names = [f"{name}, {model.parameters / 1e6:,.0f} M" for name, model in zip(SIZES, models, strict=True)]
    return _markdown(["processes", *(f"GiB, {name}" for name in names)], rows)


def _short(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


def _efficiencies(
    arguments: argparse.Namespace, model: Model, speeds: list[Speed], processes: int, tokens: float, even: float
) -> list[str]:
    """Efficiency without and with overlap for each speed, if each process has so many tokens on average."""
    micro_batches = math.ceil(tokens / arguments.micro_batch_tokens)
    cells = []
    for speed in speeds:
        compute = tokens / speed.tokens
        exchange = sent(arguments.parallel, model.parameters, processes, micro_batches) / speed.bytes
        overlap = hidden(arguments.parallel, compute, micro_batches)
        cells.append(" to ".join(f"{even * efficiency(compute, exchange, most):.0%}" for most in (0.0, overlap)))
    return cells


def _markdown(names: list[str], rows: list[list[str]]) -> str:
    lines = [names, ["---:"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
