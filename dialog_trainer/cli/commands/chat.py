"""mode=chat: talk to a checkpoint in the terminal; writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from dialog_trainer.build.model import load_saved_model
from dialog_trainer.build.runtime import select_device
from dialog_trainer.config.options import Settings
from dialog_trainer.model.generation.conversation import Conversation, LineTooLong
from dialog_trainer.model.generation.generate import stream_reply
from dialog_trainer.training.checkpoint import find_checkpoint


def chat_with_run(settings: Settings) -> int:
    folder = find_checkpoint(Path(settings["resume_model_dir"]), settings["load_model_type"])
    options = settings["chat"]
    max_new_tokens = options["max_new_tokens"] or settings["metrics"]["max_new_tokens"]
    model, tokenizer = load_saved_model(
        folder, settings, select_device(settings), lambda line: print(line, file=sys.stderr)
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
        chat_loop(Conversation(tokenizer, window=window, max_new_tokens=max_new_tokens), reply)
    except KeyboardInterrupt:
        print()
        return 130
    return 0


MAX_LINE_CHARACTERS = 100_000
HELP = "Type a line and press Enter. /reset forgets the conversation, /quit leaves."


def chat_loop(
    conversation: Conversation,
    reply: Callable[[list[int], Callable[[str], None]], str],
    lines: TextIO | None = None,
    out: TextIO | None = None,
) -> None:
    """Reads lines until `/quit` or the end of input. `reply(context, on_text)` returns the whole reply.

    On a terminal there is a prompt and the reply streams; piped, each line gives exactly one line.
    """
    lines, out = lines or sys.stdin, out or sys.stdout
    live = lines.isatty()

    def say(text: str, end: str = "\n") -> None:
        out.write(text + end)
        out.flush()

    if live:
        say(HELP)
    while True:
        if live:
            say("you: ", end="")
        line = lines.readline(MAX_LINE_CHARACTERS)
        if not line:
            return
        if not line.endswith("\n") and len(line) == MAX_LINE_CHARACTERS:
            while line and not line.endswith("\n"):
                line = lines.readline(MAX_LINE_CHARACTERS)
            say(f"(that line has more than {MAX_LINE_CHARACTERS:,} characters: send a shorter one)")
            continue
        text = line.encode("utf-8", "replace").decode("utf-8").strip()  # without lone surrogates
        if text.split()[:1] == ["/quit"]:
            return
        if text.split()[:1] == ["/reset"]:
            conversation.reset()
            say("(forgotten)")
        elif text.startswith("/"):
            say(f"(there is no {text.split()[0]}: /reset or /quit)")
        elif not text:
            say("(an empty line: type something, or /quit)")
        else:
            try:
                context = conversation.ask(text)
            except LineTooLong as error:
                say(f"({error})")
                continue
            if live:
                say("bot: ", end="")
            answer = reply(context, (lambda piece: say(piece, end="")) if live else (lambda piece: None))
            conversation.answer(answer)
            say(("" if answer else "(no reply)") if live else " ".join(answer.splitlines()) or "(no reply)")
