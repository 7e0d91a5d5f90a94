"""Chat in the terminal: a line in, a reply out. Works with piped input too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

from dialog_trainer.chat.conversation import Conversation, LineTooLong

MAX_LINE_CHARACTERS = 100_000
HELP = "Type a line and press Enter. /reset forgets the conversation, /quit leaves."


def chat(
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
