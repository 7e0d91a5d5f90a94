"""Checks training on CUDA: a few steps in each precision, on one GPU and on two if there are two.

    python benchmarks/gpu_check.py                  # 124 M parameters
    python benchmarks/gpu_check.py --size tiny

Then it trains a whole run through the command line with its defaults (`compile=auto`) in bf16, with sampled replies.
A row has the largest difference of the losses from those of one process in fp32, the real tokens per second, and the MFU:
6 operations for each parameter and token, over the peak of the GPU. Dropout is off, so that two processes must give the
losses of one up to rounding. Without a CUDA device it prints one line and stops.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from processes import compose_config, measure, model_options, rate, run_options

from dialog_trainer.training.mfu import compute_mfu, peak_flops_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["124m", "tiny"], default="124m")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    count = torch.cuda.device_count()
    if not count:
        print(f"torch {torch.__version__} finds no CUDA device: nothing to check")
        return
    device = torch.cuda.get_device_name(0)
    print(f"{count} x {device}, CUDA {torch.version.cuda}, torch {torch.__version__}, NCCL {_nccl()}")
    print(f"transformers {transformers.__version__}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic kernels, as a run sets it
    expected: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_options(arguments.size, folder)
        config, data = compose_config(model, folder, "device=cuda", "model.dropout=0.0")
        print(f"{arguments.size}, {data}, batch_size {config.batch_size}, {arguments.steps} steps\n")
        print("| precision | GPUs | largest difference of loss | tokens a second | MFU |\n|---|---:|---:|---:|---:|")
        for precision in ("fp32", "bf16", "fp16"):
            for size in range(1, min(count, 2) + 1):
                this = config.replace({"precision": precision, "device": list(range(size))})
                found = measure(this, size, first=0, steps=arguments.steps, warm_up=3)
                losses = [rows[0][1] for rows in found["steps"]]
                expected = expected or losses
                apart = max(abs(one - other) for one, other in zip(losses, expected, strict=True))
                best = peak_flops_of(device, precision)
                share = f"{compute_mfu(found['parameters'], rate(found), best * size):.1%}" if best else "?"
                print(f"| {precision} | {size} | {apart:.2g} | {rate(found):,.0f} | {share} |", flush=True)
        options, _ = run_options(model, folder)
        sys.exit(_whole_run([*options, "device=[0]", f"steps={arguments.steps}"]))


def _whole_run(options: list[str]) -> int:
    print("\nA whole run:", flush=True)
    own = ["precision=bf16", "metrics.decoding=sample", "metrics.max_dialogues=20", "prediction_print_n=0"]
    return subprocess.run([sys.executable, "-m", "dialog_trainer", *options, *own], check=False).returncode


def _nccl() -> str:
    there = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return ".".join(map(str, torch.cuda.nccl.version())) if there else "none"


if __name__ == "__main__":
    main()
