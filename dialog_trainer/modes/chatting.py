"""mode=chat: talk to a checkpoint in the terminal; writes nothing."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from dialog_trainer import computing, experiment
from dialog_trainer.chat.conversation import Conversation
from dialog_trainer.chat.terminal import chat
from dialog_trainer.model.streaming import stream_reply
from dialog_trainer.options import Settings
from dialog_trainer.training import checkpoint


def run(settings: Settings) -> int:
    folder = checkpoint.find(Path(settings["resume_model_dir"]), settings["load_model_type"])
    options = settings["chat"]
    max_new_tokens = options["max_new_tokens"] or settings["metrics"]["max_new_tokens"]
    model, tokenizer = experiment.saved_model(
        folder, settings, computing.device(settings), lambda line: print(line, file=sys.stderr)
    )
    torch.manual_seed(settings["seed"])
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8", errors="replace")

    reply = partial(
        stream_reply,
        model,
        tokenizer,
        max_new_tokens=max_new_tokens,
        temperature=float(options["temperature"]),  # transformers refuses an int
        top_p=float(options["top_p"]),
    )
    window = settings["model"]["max_len"]
    try:
        chat(Conversation(tokenizer, window=window, max_new_tokens=max_new_tokens), reply)
    except KeyboardInterrupt:
        print()
        return 130
    return 0
