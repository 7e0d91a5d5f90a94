"""LoRA against training all weights, GPT-2 of 124 M parameters on the CPU: tokens a second, in turns, and memory.

    python benchmarks/lora.py [--steps 4] [--tokens 1500] [--precision fp32]

The promise: at least 1.25 times the tokens a second, and at most 0.7 times the memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dialog_trainer.model.adapters import add_lora
from dialog_trainer.model.kernels.activations import fuse_activations
from dialog_trainer.model.loss import compute_loss
from dialog_trainer.model.packed_forward import use_packed_attention
from dialog_trainer.types import Batch

NEW_TOKENS = 3
LENGTH = 100  # of a sequence
KINDS = ("full", "lora")


def build(kind: str) -> tuple[GPT2LMHeadModel, torch.optim.Optimizer]:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "vocab_size": 50257 + NEW_TOKENS}
    model = GPT2LMHeadModel(GPT2Config(**sizes))
    if kind == "lora":
        new_ids = list(range(50257, 50257 + NEW_TOKENS))
        add_lora(model, rank=16, alpha=32.0, dropout=0.0, targets=(), new_ids=new_ids, seed=0)
    fuse_activations(model)
    assert use_packed_attention(model, LENGTH)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model.train(), torch.optim.AdamW(trained, lr=1e-4, fused=True)


def step(model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, tokens: int, precision: str) -> float:
    """Seconds of one update."""
    lengths = (LENGTH,) * (tokens // LENGTH)
    ids = torch.randint(0, 50260, (sum(lengths),))
    positions = torch.arange(LENGTH).repeat(len(lengths))
    weights, zeros = (positions > 0).float(), torch.zeros_like(ids)
    batch = Batch(ids, zeros, zeros, positions, weights, lengths, divisor=float(weights.sum()))
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        loss = compute_loss(model, batch).nats / batch.divisor
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--memory-of", choices=KINDS)
    options = parser.parse_args()
    if options.memory_of:
        parts = build(options.memory_of)
        for _ in range(2):
            step(*parts, options.tokens, options.precision)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    # First: a process that is forked from a large one counts its memory.
    arguments = [sys.executable, __file__, "--tokens", str(options.tokens), "--precision", options.precision]
    memory = {
        kind: int(subprocess.run([*arguments, "--memory-of", kind], check=True, capture_output=True, text=True).stdout)
        for kind in KINDS
    }
    models = {kind: build(kind) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(options.steps + 1):
        for kind, parts in models.items():
            taken = step(*parts, options.tokens, options.precision)
            if number:  # the first one allocates
                seconds[kind].append(taken)
    del models
    speed = {kind: options.tokens / statistics.median(values) for kind, values in seconds.items()}
    found = {
        "tokens a second": {kind: round(value, 1) for kind, value in speed.items()},
        "times the speed": round(speed["lora"] / speed["full"], 2),
        "peak memory, GB": {kind: round(value / 1e9, 2) for kind, value in memory.items()},
        "times the memory": round(memory["lora"] / memory["full"], 2),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
