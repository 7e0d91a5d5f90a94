"""mode=chat: a conversation with a checkpoint in the terminal, or a reply to each line of piped input; writes no file."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
from collections.abc import Callable, Iterator

from rich.console import Console

from dialog_trainer import screen
from dialog_trainer.build.decoding import build_decoding, longest_chat_reply
from dialog_trainer.build.model import load_saved_model
from dialog_trainer.build.runtime import select_device
from dialog_trainer.config.job import Job
from dialog_trainer.errors import ConfigError
from dialog_trainer.model.generation.conversation import Conversation, LineTooLong
from dialog_trainer.model.generation.generate import stream_reply
from dialog_trainer.reporting.console import describe_checkpoint
from dialog_trainer.seeds import derive_seed
from dialog_trainer.streams import OUTPUT, losses
from dialog_trainer.training.checkpoint_directory import hold_checkpoint
from dialog_trainer.training.saved_state import read_state

MAX_LINE_CHARACTERS = 100_000
HELP = "Type a line and press Enter. /reset forgets the conversation, /help shows this line, /quit, quit or exit ends the chat."
PROMPT = "you: "
NO_REPLY = "(no reply)"
WHY_NO_REPLY = (
    "(no reply: the model ended its turn at once, and your line is forgotten; try chat.temperature=0.7, "
    "another checkpoint (load_model_type) or a longer training)"
)

# Returns the next line, or None at the end of the input.
ReadLine = Callable[[], str | None]
# `(context, on_text)` -> the reply, whose text `on_text` gets in pieces.
Reply = Callable[[list[int], Callable[[str], None]], str]


def chat_with_run(job: Job, console: Console) -> int:
    """Chats until the user ends it; returns the exit code. The console is not used: replies go to standard output."""
    config = job.config
    run, seed, window = config.saved_run, config.seed, config.model.max_len
    decoding, max_new_tokens = build_decoding(config.chat.generation), longest_chat_reply(config)
    with hold_checkpoint(run, config.load_model_type) as checkpoint:
        _print_note(describe_checkpoint(run, checkpoint, config.load_model_type, read_state(run, checkpoint)))
        model, tokenizer = load_saved_model(run / checkpoint, config, select_device(config), _print_note)
    _print_note(
        f"decoding: {decoding.text()}, at most {max_new_tokens} tokens a reply"
        + (f", seed {seed}" if decoding.kind == "sample" else "")
    )
    turns = itertools.count()

    def reply(context: list[int], on_text: Callable[[str], None]) -> str:
        turn_seed = derive_seed("chat", seed, next(turns))
        return stream_reply(
            model, tokenizer, context, on_text, decoding=decoding, seed=turn_seed, max_new_tokens=max_new_tokens
        )

    system = config.chat.system
    if system and not tokenizer.chat_format.has_system:
        raise ConfigError(
            [f"chat.system: the chat format of this run ({tokenizer.chat_format.name}) has no system turn"]
        )
    conversation = Conversation(tokenizer, window=window, max_new_tokens=max_new_tokens, system=system)
    return run_session(conversation, reply)


def run_session(conversation: Conversation, reply: Reply) -> int:
    """Chats over the standard streams; returns the exit code. Notes and errors go to the standard error output.

    In a terminal, lines can be edited and recalled, the reply streams, and Ctrl-C stops a reply or, at the prompt, ends
    the chat. Otherwise each line of the input gives one line of output.
    """
    live = sys.stdin.isatty() and sys.stdout.isatty()
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        chat_loop(conversation, reply, _read_terminal if live else _read_pipe, _write, live=live)
    except KeyboardInterrupt:
        _print_note("")
        return 130
    except BrokenPipeError:  # the reader has what it wanted, as in `... | head -1`
        return 0
    except OSError as error:  # a full disk, or the terminal has gone
        _print_note(f"the chat ended: standard input or output cannot be used ({error.strerror})")
        return 1
    return 0


def chat_loop(
    conversation: Conversation, reply: Reply, read_line: ReadLine, write: Callable[[str], None], *, live: bool
) -> None:
    """Answers lines until `/quit` or the end of the input; `live` in a terminal."""
    if live:
        write(f"{HELP}\n")
    silences = itertools.chain([WHY_NO_REPLY], itertools.repeat(NO_REPLY))
    while (line := read_line()) is not None:
        text = line.encode("utf-8", "replace").decode("utf-8").strip()  # without lone surrogates
        command = text.split()[0] if text.startswith("/") else text
        if command in ("/quit", "/exit", "quit", "exit"):
            return
        if len(line.removesuffix("\n")) > MAX_LINE_CHARACTERS:
            write(f"(that line has more than {MAX_LINE_CHARACTERS:,} characters: send a shorter one)\n")
        elif command == "/reset":
            conversation.reset()
            write("(forgotten)\n")
        elif command == "/help":
            write(f"{HELP}\n")
        elif text.startswith("/"):
            write(f"(there is no {command}: /reset, /help or /quit)\n")
        elif not text:
            write("(an empty line: type something, or /quit)\n")
        else:
            try:
                context = conversation.ask(text)
            except LineTooLong as error:
                write(f"({error})\n")
                continue
            answer = _stream_answer(context, reply, write, silences) if live else reply(context, lambda piece: None)
            conversation.answer(answer)
            if not live:
                write(f"{' '.join(answer.splitlines()) or next(silences)}\n")


def _stream_answer(context: list[int], reply: Reply, write: Callable[[str], None], silences: Iterator[str]) -> str:
    """The reply, written as it is generated; as much of it as there is when Ctrl-C stops it. Of an empty one, the next of
    `silences` is written."""
    pieces: list[str] = []

    def write_piece(piece: str) -> None:
        pieces.append(piece)
        write(piece)

    write("bot: ")
    end = ""
    try:
        reply(context, write_piece)
    except KeyboardInterrupt:
        end = " (stopped)" if pieces else "(stopped)"
    write(f"{end or ('' if pieces else next(silences))}\n")
    return "".join(pieces)


def _read_terminal() -> str | None:
    """A line edited with readline, whose history stays in memory; without readline as the terminal edits it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # importing it changes `input`
    try:
        return input(PROMPT)
    except EOFError:
        _write("\n")
        return None


def _read_pipe() -> str | None:
    """A line of standard input; of a longer one than is accepted, the beginning."""
    line = sys.stdin.readline(MAX_LINE_CHARACTERS + 1)
    rest = line
    while len(rest) > MAX_LINE_CHARACTERS and not rest.endswith("\n"):
        rest = sys.stdin.readline(MAX_LINE_CHARACTERS + 1)
    return line or None


def _write(text: str) -> None:
    """Raises `OSError` once standard output is lost: nobody reads the replies."""
    screen.write(text)
    for name, error in losses:
        if name == OUTPUT:
            losses.clear()
            raise error


def _print_note(line: str) -> None:
    screen.write_line(line, sys.stderr)
