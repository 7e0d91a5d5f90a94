"""Checkpoints in tests: a saver of those of the tiny model, with states as a run writes them; their digests; damage."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dialog_trainer.model.packed_forward import padded_attention
from dialog_trainer.training.checkpoint import collect_tensors
from dialog_trainer.training.checkpoint_publishing import save_checkpoint


def state_of(step: int, **kept: int) -> dict[str, Any]:
    """A state at `step`; `kept` names the steps of the best checkpoints."""
    return {
        "step": step,
        "validated_step": step,
        "tokens_seen": 10 * step,
        "user_tokens_seen": 4 * step,
        "assistant_tokens_seen": 6 * step,
        "best": {"loss": 1.0, "loss_step": step, "score": None, "score_step": None, "bad_validations": 0},
        "kept": {"last": step, **kept},
        "held_out": "0",
        "digest": {"data": "0"},
        "threads": 1,
        "device": "cpu",
        "processes": 1,
        "versions": {"torch": torch.__version__},
    }


def make_saver(model: Any, tokenizer: Any, run: Path, keep: int = 2) -> Callable[..., None]:
    """`save(step, best_loss=step, ...)` into `run/weights`, with an optimizer that has made one update."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with padded_attention(model):
        model(input_ids=torch.arange(5)[None]).logits.sum().backward()
    optimizer.step()

    def save(step: int, **kept: int) -> None:
        tensors = collect_tensors(model, optimizer)
        save_checkpoint(run, keep=keep, model=model, tokenizer=tokenizer, tensors=tensors, state=state_of(step, **kept))

    return save


def digests(run: Path) -> list[str]:
    """Of the weights and of the optimizer's state in the last checkpoint of a run."""
    files = ("model.safetensors", "trainer/optimizer.safetensors")
    return [hashlib.sha256((run / "weights/last" / name).read_bytes()).hexdigest() for name in files]


def flip(path: Path) -> None:
    """Changes a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
