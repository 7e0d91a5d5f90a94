"""Checks CUDA against the CPU, and measures it, in about ten minutes: `make gpu-check`.

    python benchmarks/gpu_check.py                                    # all parts
    python benchmarks/gpu_check.py --parts losses resume              # some of them
    python benchmarks/gpu_check.py --device cpu --size 0.7M           # a rehearsal without a GPU

Its parts:

- losses: 0.7 M weights without dropout. Largest difference of the losses of the first updates from those on the CPU in fp32:
  each precision, compiled or not, on one GPU and on two if there are two. Above `BOUNDS` the part fails.
- resume: `mode=verify_resume` in bf16, not compiled: stopped and resumed runs must end with the files of a straight one, bit for bit.
- speed: real tokens a second, MFU (6 operations for each parameter and token, over the peak of the GPU) and peak memory.
- run: a whole run of the command line in bf16 with its defaults, with sampled replies.
- peers: in bf16 against HF Trainer at its best, by `benchmarks/training.py`, and the share of the bare matrix products.

A GPU without bf16 has fp16 in its place. A measurement that fails is a line of its table. A part that does not begin within
`--minutes` is left out and named. The exit code is 1 if a part failed. Without a CUDA device it prints one line and stops.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
import transformers
from processes import compose_config, measure, model_options, rate, run_options

from dialog_trainer.build.precision import native_bf16, read_machine
from dialog_trainer.config.schema import Config
from dialog_trainer.training.mfu import compute_mfu, peak_flops_of

# Largest difference of a loss, in nats per token, from that of fp32 on the CPU.
BOUNDS = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}
# Precision, and whether the blocks are compiled.
KINDS = (("bf16", False), ("bf16", True), ("fp32", False), ("fp32", True), ("fp16", False))
SMALL = {"124M": "124m", "0.7M": "tiny"}
VERIFIED_STEPS = 12
# Updates before those that are timed; compiling belongs to them.
WARM_UP = 3


def main() -> None:
    arguments = parse_arguments()
    count = torch.cuda.device_count() if arguments.device == "cuda" else 1
    if not count:
        print(f"torch {torch.__version__} finds no CUDA device: nothing to check")
        return
    name = torch.cuda.get_device_name(0) if arguments.device == "cuda" else "CPU, a rehearsal: its figures say nothing"
    print(f"{count} x {name}, CUDA {torch.version.cuda}, torch {torch.__version__}, NCCL {_nccl()}")
    print(f"transformers {transformers.__version__}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic kernels, as a run sets it
    sys.exit(run_parts(arguments, count))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--size", choices=list(SMALL), default="124M", help="of speed, run and peers")
    parser.add_argument("--steps", type=int, default=10, help="updates of each measurement")
    parser.add_argument("--minutes", type=float, default=9.0, help="no part begins later")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    return parser.parse_args()


def run_parts(arguments: argparse.Namespace, count: int) -> int:
    """Runs the parts in turn, and returns the exit code."""
    start, outcomes = time.perf_counter(), {}
    for part in arguments.parts:
        if time.perf_counter() - start > 60 * arguments.minutes:
            outcomes[part] = "not run, for lack of time"
            continue
        print(f"\n## {part}\n", flush=True)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            try:
                passed = PARTS[part](arguments, count, Path(name))
            except Exception:  # of what this checks: the other parts still say something
                traceback.print_exc()
                passed = False
        outcomes[part] = f"{'passed' if passed else 'FAILED'} in {time.perf_counter() - begun:.0f} s"
        print(f"\n{part}: {outcomes[part]}", flush=True)
    print("\n" + "\n".join(f"{part:8} {outcome}" for part, outcome in outcomes.items()))
    return int(any(outcome.startswith("FAILED") for outcome in outcomes.values()))


def check_losses(arguments: argparse.Namespace, count: int, folder: Path) -> bool:
    config, data = compose_config(model_options("tiny", folder), folder, "device=cpu", "model.dropout=0.0")
    print(f"0.7M, {data}, batch_size {config.batch_size}, {arguments.steps} updates; expected: fp32 on the CPU\n")
    on_cpu = config.replace({"precision": "fp32", "compile": False})
    expected = _losses(measure(on_cpu, 1, first=0, steps=arguments.steps, warm_up=0))
    print("| precision | compiled | devices | largest difference of a loss | |\n|---|---|---:|---:|---|")
    passed = True
    for kind, precision, found in _measured(arguments, config, count, 0):
        differences = (
            [abs(one - other) for one, other in zip(_losses(found), expected, strict=True)] if found else [math.nan]
        )
        fits = all(difference <= BOUNDS[precision] for difference in differences)  # not so of nan
        passed &= fits
        worst = math.nan if any(map(math.isnan, differences)) else max(differences)
        print(f"| {kind} | {worst:.2g} | {'' if fits else f'FAILED: above {BOUNDS[precision]}'} |", flush=True)
    return passed


def measure_speed(arguments: argparse.Namespace, count: int, folder: Path) -> bool:
    options = model_options(SMALL[arguments.size], folder)
    config, data = compose_config(options, folder, f"device={arguments.device}", "model.dropout=0.0")
    print(f"{arguments.size}, {data}, batch_size {config.batch_size}, {arguments.steps} updates\n")
    print("| precision | compiled | devices | tokens a second | MFU | peak memory, GB |\n|---|---|---:|---:|---:|---:|")
    name = torch.cuda.get_device_name(0) if arguments.device == "cuda" else ""
    passed = True
    for kind, precision, found in _measured(arguments, config, count, WARM_UP):
        passed &= found is not None
        if found is None:
            print(f"| {kind} | FAILED | | |", flush=True)
            continue
        best, devices = peak_flops_of(name, precision), len(found["steps"][0])
        share = f"{compute_mfu(found['parameters'], rate(found), best * devices):.1%}" if best else "?"
        print(f"| {kind} | {rate(found):,.0f} | {share} | {found['peak_bytes'] / 1e9:.2f} |", flush=True)
    return passed


def check_resume(arguments: argparse.Namespace, count: int, folder: Path) -> bool:
    options, _ = run_options(["model=gpt2_tiny", "model.layers=1", "model.width=32", "model.heads=2"], folder)
    own = ["mode=verify_resume", f"steps={VERIFIED_STEPS}", "metrics.max_dialogues=2", "data.max_train_dialogues=200"]
    return not _run(*options, *own, _one_device(arguments), f"precision={_half(arguments)}", "compile=false")


def check_run(arguments: argparse.Namespace, count: int, folder: Path) -> bool:
    options, _ = run_options(model_options(SMALL[arguments.size], folder), folder)
    own = [
        f"precision={_half(arguments)}",
        "metrics.decoding=sample",
        "metrics.max_dialogues=20",
        "prediction_print_n=0",
    ]
    return not _run(*options, *own, _one_device(arguments), f"steps={arguments.steps}")


def measure_peers(arguments: argparse.Namespace, count: int, folder: Path) -> bool:
    if _half(arguments) != "bf16":
        print("left out: the benchmark compares bf16, which this GPU lacks")
        return True
    contenders = ["ours", "ours:compile=false", "hf-best", "floor"]  # ours compiles on CUDA
    script = Path(__file__).with_name("training.py")
    own = ["--sizes", arguments.size, "--precision", "bf16", "--steps", "2", "--contenders", *contenders]
    return not subprocess.run([sys.executable, str(script), *own], check=False).returncode


PARTS: dict[str, Callable[[argparse.Namespace, int, Path], bool]] = {
    "losses": check_losses,
    "speed": measure_speed,
    "run": check_run,
    "resume": check_resume,
    "peers": measure_peers,
}


def _measured(
    arguments: argparse.Namespace, config: Config, count: int, warm_up: int
) -> Iterator[tuple[str, str, dict | None]]:
    """First cells of a line, precision and result of each measurement; None for one that failed and has said why."""
    for precision, compiled in KINDS:
        if precision == "bf16" and _half(arguments) != "bf16":
            continue
        for size in range(1, min(count, 2) + 1):
            device = list(range(size)) if arguments.device == "cuda" else "cpu"
            this = config.replace({"precision": precision, "compile": compiled, "device": device})
            found = None
            with suppress(SystemExit):  # of a process that measures
                found = measure(this, size, first=0, steps=arguments.steps, warm_up=warm_up)
            yield f"{precision} | {'yes' if compiled else 'no'} | {size}", precision, found


def _losses(found: dict) -> list[float]:
    """Of each update; nan where the loss was not finite."""
    return [math.nan if rows[0][1] is None else rows[0][1] for rows in found["steps"]]


def _half(arguments: argparse.Namespace) -> str:
    """The precision of 16 bits that the device computes in; a rehearsal on the CPU takes bf16."""
    return "bf16" if arguments.device == "cpu" or native_bf16(read_machine(torch.device("cuda", 0))) else "fp16"


def _one_device(arguments: argparse.Namespace) -> str:
    return "device=[0]" if arguments.device == "cuda" else "device=cpu"


def _run(*options: str) -> int:
    return subprocess.run([sys.executable, "-m", "dialog_trainer", *options], check=False).returncode


def _nccl() -> str:
    there = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return ".".join(map(str, torch.cuda.nccl.version())) if there and torch.cuda.is_available() else "none"


if __name__ == "__main__":
    main()
