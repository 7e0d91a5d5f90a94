"""Readers of models that a user names, and of the adapter of a run: for `fuzz_readers`, which see."""

from __future__ import annotations

import io
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import CheckpointError, ModelError
from dialog_trainer.model.adapters import WEIGHTS_FILE, LoraAdapter, add_lora
from dialog_trainer.model.loading import build_from_scratch, load_pretrained
from tests.helpers.gguf_files import write_gguf
from tests.torture.fuzz_readers import Reader, put_beside
from tests.torture.run_readers import saved_files, small_model


def valid_gguf() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for quantized in (False, True):
            write_gguf(Path(folder) / "model.gguf", small_model()[1], quantized)
            found.append((Path(folder) / "model.gguf").read_bytes())
        return found


def read_gguf(folder: Path) -> object:
    path = str(folder / "model.gguf")
    return load_pretrained(path, DialogueTokenizer.pretrained(path), None)


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def valid_original() -> list[bytes]:
    state = {f"model.{name}": value for name, value in small_model()[0].state_dict().items()}
    return [pickled({"model": state, "log_data": {"bleu2": [np.float64(0.5)]}}), pickled({"model": state})]


def read_original(folder: Path) -> object:
    small_model()[1].save(folder)
    path = str(folder / "model.pt")
    return load_pretrained(path, DialogueTokenizer.pretrained(path), None)


def read_bin(folder: Path) -> object:
    put_beside(folder, saved_files())
    (folder / "model.safetensors").unlink()
    return load_pretrained(str(folder), small_model()[1], None, pickles=True)


@cache
def small_adapter() -> LoraAdapter:
    model = build_from_scratch(small_model()[1], layers=1, heads=1, width=4, positions=8, dropout=0.0, seed=0)
    return add_lora(model, rank=2, alpha=4.0, dropout=0.0, targets=(), new_ids=(1, 2), seed=0)


def valid_adapter() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tensors = {name: value.detach() for name, value in small_adapter().trained_tensors().items()}
        small_adapter().save(Path(folder), tensors, "base")
        return [(Path(folder) / WEIGHTS_FILE).read_bytes()]


MODEL_READERS = [
    Reader("GGUF", "model.gguf", valid_gguf, read_gguf, ModelError),
    Reader("checkpoint of the original", "model.pt", valid_original, read_original, ModelError),
    Reader(
        "pytorch_model.bin", "pytorch_model.bin", lambda: [pickled(small_model()[0].state_dict())], read_bin, ModelError
    ),
    Reader("adapter", WEIGHTS_FILE, valid_adapter, lambda folder: small_adapter().load(folder), CheckpointError),
]
