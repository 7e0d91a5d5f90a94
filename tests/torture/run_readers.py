"""Readers of what a run keeps, and of what a user types: for `fuzz_readers`, which see."""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dialog_trainer.cli.commands import chat
from dialog_trainer.cli.compose import compose_runs
from dialog_trainer.cli.overrides import prepare_overrides
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import CheckpointError, ConfigError, DialogTrainerError, ModelError
from dialog_trainer.model.generation.conversation import Conversation
from dialog_trainer.model.loading import build_from_scratch, load_pretrained
from dialog_trainer.tracking.jsonl import read_next_attempt, read_rows
from dialog_trainer.training.checkpoint import MANIFEST, OPTIMIZER_FILE, find_damage, load_optimizer
from dialog_trainer.training.saved_state import STATE_FILE, read_state
from tests.helpers.checkpoints import make_saver
from tests.torture.fuzz_readers import DIALOGUES, MAX_ERROR, Reader, put_beside

STEP = "weights/step-00000001"


@cache
def small_model() -> tuple[Any, DialogueTokenizer]:
    tokenizer = DialogueTokenizer.train([text for turns in DIALOGUES for text in turns], 270)
    shape = {"layers": 1, "heads": 1, "width": 4, "positions": 8}
    return build_from_scratch(tokenizer, **shape, dropout=0.0, seed=0), tokenizer


@cache
def saved_files() -> dict[str, bytes]:
    """The files of a checkpoint of a very small model."""
    with tempfile.TemporaryDirectory() as folder:
        make_saver(*small_model(), Path(folder))(1)
        step = Path(folder) / STEP
        return {path.relative_to(step).as_posix(): path.read_bytes() for path in step.rglob("*") if path.is_file()}


def read_manifest(folder: Path) -> object:
    put_beside(folder, saved_files())
    return find_damage(folder.parent, folder.name)


def read_optimizer(folder: Path) -> object:
    model, _ = small_model()
    return load_optimizer(folder, model, torch.optim.AdamW(model.parameters(), lr=0.1))


def read_model(folder: Path) -> object:
    put_beside(folder, saved_files())
    return load_pretrained(str(folder), small_model()[1], None)


def header_of(name: str) -> bytes:
    content = saved_files()[name]
    return content[8 : 8 + struct.unpack("<Q", content[:8])[0]]


def put_header(folder: Path, name: str) -> None:
    """The tensors of a file under another header, whose length is right."""
    header, tensors = (folder / "header").read_bytes(), saved_files()[name][8 + len(header_of(name)) :]
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(struct.pack("<Q", len(header)) + header + tensors)


def read_optimizer_header(folder: Path) -> object:
    put_header(folder, OPTIMIZER_FILE)
    return read_optimizer(folder)


def read_model_header(folder: Path) -> object:
    put_header(folder, "model.safetensors")
    return read_model(folder)


def valid_rows() -> list[bytes]:
    head = {"epoch": 0, "attempt": 2, "time_seconds": 0.5}
    rows = [{"step": step, **head, "split": "train", "train_loss": 1.5, "lr": 1e-3} for step in range(9)]
    rows.append({"step": 9, **head, "split": "validation", "validation_loss": 2.5, "ppl": 12.0, "signature": "a|b"})
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


def read_metrics(folder: Path) -> object:
    path = folder / "metrics.jsonl"
    return list(read_rows(path)), read_next_attempt(path)


def valid_lines() -> list[bytes]:
    return ["Hi , how are you ?\n/reset\n한국어 🙂\n\n/help\nand you ?\n/no\n".encode(), b"[SEP] [CLS]\nquit\n"]


def read_lines(folder: Path) -> object:
    """A chat whose input is the file; its model repeats a part of the context."""
    tokenizer, before = small_model()[1], (sys.stdin, sys.stdout)
    sys.stdin = io.TextIOWrapper(io.BytesIO((folder / "lines").read_bytes()))
    sys.stdout = io.TextIOWrapper(io.BytesIO())
    try:
        conversation = Conversation(tokenizer, window=60, max_new_tokens=20)
        return chat.run_session(conversation, lambda context, write: tokenizer.decode(context[-20:]))
    finally:
        sys.stdin, sys.stdout = before


def valid_overrides() -> list[bytes]:
    return [
        b"model=gpt2_tiny\ndata=chitchat\noptim.lr0=1e-3\nname='a b'\nmetrics.names=[bleu2,nist2]",
        b"model=gpt2_tiny,gpt2\n+data.x={a: 1, b: [c]}\n~logger\nseed=range(0,3)\nhydra/launcher=basic",
        b"mask_schedule={name: step, step: 0.5}\ntrain_user_turn_mask_step=0,0.5\nproject=${oc.env:HOME}",
    ]


def read_overrides(folder: Path) -> object:
    """The file has an override on each line. The error of a command line names no file, but it has a bound."""
    lines = (folder / "overrides").read_bytes().decode("utf-8", "surrogateescape").split("\n")
    try:
        return compose_runs(prepare_overrides(lines), None, sweep=False)
    except ConfigError as error:
        if max(map(len, error.errors)) > MAX_ERROR:
            raise RuntimeError(f"an error of {max(map(len, error.errors)):,} characters") from None
        return error


def of_checkpoint(name: str):
    return lambda: [saved_files()[name]]


def reader(name: str, file_name: str, read, error: type[DialogTrainerError] | None) -> Reader:
    return Reader(name, file_name, of_checkpoint(file_name), read, error)


RUN_READERS = [
    reader("state.json", STATE_FILE, lambda folder: read_state(folder.parent, folder.name), CheckpointError),
    reader("manifest of a checkpoint", MANIFEST, read_manifest, None),
    reader("optimizer.safetensors", OPTIMIZER_FILE, read_optimizer, CheckpointError),
    Reader("its header", "header", lambda: [header_of(OPTIMIZER_FILE)], read_optimizer_header, CheckpointError),
    reader("config.json", "config.json", read_model, ModelError),
    Reader("header of weights", "header", lambda: [header_of("model.safetensors")], read_model_header, ModelError),
    Reader("metrics.jsonl", "metrics.jsonl", valid_rows, read_metrics, None),
    Reader("lines of a chat", "lines", valid_lines, read_lines, None),
    Reader("overrides", "overrides", valid_overrides, read_overrides, None),
]
