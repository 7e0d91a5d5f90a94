"""The chat's loop: what it reads, writes and remembers, piped and in a terminal."""

import io

import pytest

from dialog_trainer.cli.commands import chat
from dialog_trainer.cli.commands.chat import HELP, MAX_LINE_CHARACTERS, WHY_NO_REPLY, chat_loop, run_session
from dialog_trainer.model.generation.conversation import Conversation

WINDOW = 60
EMPTY = "(an empty line: type something, or /quit)"


class Echo:
    """Replies with `first`, then with `r` and the number of the reply, in two pieces; keeps its contexts as text."""

    def __init__(self, tokenizer, *first: str):
        self.tokenizer, self.first = tokenizer, first
        self.contexts: list[str] = []

    def __call__(self, context, on_text) -> str:
        number = len(self.contexts)
        self.contexts.append(self.tokenizer.hf_tokenizer.decode(context))
        reply = self.first[number] if number < len(self.first) else f"r{number}"
        for piece in filter(None, (reply[:1], reply[1:])):
            if piece == "^C":
                raise KeyboardInterrupt
            on_text(piece)
        return reply


def conversation_of(tokenizer) -> Conversation:
    return Conversation(tokenizer, window=WINDOW, max_new_tokens=20)


@pytest.fixture
def pipe(tokenizer, monkeypatch):
    """`pipe(text, *replies)` runs a session over piped streams: what it prints, and the contexts of the model."""

    def run(text: str, *replies: str) -> tuple[str, list[str]]:
        model, out = Echo(tokenizer, *replies), io.StringIO()
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        monkeypatch.setattr("sys.stdout", out)
        assert run_session(conversation_of(tokenizer), model) == 0
        return out.getvalue(), model.contexts

    return run


def in_terminal(tokenizer, lines: list[str], *replies: str) -> tuple[str, list[str]]:
    """What a session in a terminal prints, prompts and typed lines left out, and the contexts of the model."""
    model, written, typed = Echo(tokenizer, *replies), [], iter(lines)
    chat_loop(conversation_of(tokenizer), model, lambda: next(typed, None), written.append, live=True)
    return "".join(written), model.contexts


def test_piped_lines_give_a_line_each(pipe):
    assert pipe("one\ntwo\nthree") == (
        "r0\nr1\nr2\n",
        ["[CLS]one[SEP]", "[CLS]one[SEP]r0[SEP]two[SEP]", "[CLS]one[SEP]r0[SEP]two[SEP]r1[SEP]three[SEP]"],
    )


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("", EMPTY),
        (" \t ", EMPTY),
        ("/help", HELP),
        ("/foo bar", "(there is no /foo: /reset, /help or /quit)"),
        ("/", "(there is no /: /reset, /help or /quit)"),
        ("!" * 50, "(that line takes 52 tokens, and there is room for 40: send a shorter one)"),
        ("!" * (MAX_LINE_CHARACTERS + 1), "(that line has more than 100,000 characters: send a shorter one)"),
        ("/" * (3 * MAX_LINE_CHARACTERS + 7), "(that line has more than 100,000 characters: send a shorter one)"),
    ],
    ids=["empty", "blank", "help", "unknown", "slash", "too many tokens", "long", "very long"],
)
def test_lines_without_reply_give_one_line_and_are_forgotten(pipe, line, printed):
    assert len(printed.splitlines()) == 1
    assert pipe(f"one\n{line}\ntwo\n") == (
        f"r0\n{printed}\nr1\n",
        ["[CLS]one[SEP]", "[CLS]one[SEP]r0[SEP]two[SEP]"],
    )


def test_longest_line_is_read_whole(pipe):
    printed, _ = pipe("!" * MAX_LINE_CHARACTERS + "\n")
    assert printed == "(that line takes 100,002 tokens, and there is room for 40: send a shorter one)\n"


def test_reset_forgets(pipe):
    assert pipe("one\n/reset\ntwo\n") == ("r0\n(forgotten)\nr1\n", ["[CLS]one[SEP]", "[CLS]two[SEP]"])


@pytest.mark.parametrize("end", ["/quit\ntwo\n", "/exit\ntwo\n", "  /quit  \ntwo\n", "quit\ntwo\n", " exit\ntwo\n", ""])
def test_quit_exit_and_end_of_input_end_the_chat(pipe, end):
    assert pipe(f"one\n{end}") == ("r0\n", ["[CLS]one[SEP]"])


@pytest.mark.parametrize("line", ["exit the room", "I quit"])
def test_only_a_lone_exit_or_quit_ends_the_chat(pipe, line):
    assert pipe(f"{line}\n")[1] == [f"[CLS]{line}[SEP]"]


def test_no_input_gives_no_output(pipe):
    assert pipe("") == ("", [])


@pytest.mark.parametrize("reply", ["a\nb", "a\r\nb", "a\rb", "a\u2028b", "a\x0bb", "a\x85b"])
def test_piped_reply_is_one_line(pipe, reply):
    printed, _ = pipe("one\n", reply)
    assert printed == "a b\n"
    assert len(printed.splitlines()) == 1


def test_empty_reply_is_named_and_its_line_forgotten(pipe):
    assert pipe("one\ntwo\nthree\n", "", "") == (
        f"{WHY_NO_REPLY}\n(no reply)\nr2\n",
        ["[CLS]one[SEP]", "[CLS]two[SEP]", "[CLS]three[SEP]"],
    )


def test_lone_surrogates_are_replaced(pipe):
    assert pipe("a \ud800 b\n\udfff\n") == ("r0\nr1\n", ["[CLS]a ? b[SEP]", "[CLS]a ? b[SEP]r0[SEP]?[SEP]"])


def test_full_window_loses_first_turns(pipe):
    _, contexts = pipe("\n".join("abcdefgh"), *["!" * 9] * 8)
    assert contexts[2] == f"[CLS]a[SEP]{'!' * 9}[SEP]b[SEP]{'!' * 9}[SEP]c[SEP]"
    assert contexts[-1] == "[CLS]" + "".join(f"{line}[SEP]{'!' * 9}[SEP]" for line in "efg") + "h[SEP]"


def test_interrupt_ends_a_piped_chat(tokenizer, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert run_session(conversation_of(tokenizer), Echo(tokenizer, "a^C")) == 130
    assert capsys.readouterr().out == ""


def test_terminal_shows_help_and_streams(tokenizer):
    printed, _ = in_terminal(tokenizer, ["one", "/reset", "", "/help"], "r\n0")
    assert printed == f"{HELP}\nbot: r\n0\n(forgotten)\n{EMPTY}\n{HELP}\n"


def test_terminal_names_an_empty_reply_once(tokenizer):
    assert in_terminal(tokenizer, ["one", "two", "/quit"], "", "")[0] == (
        f"{HELP}\nbot: {WHY_NO_REPLY}\nbot: (no reply)\n"
    )


def test_interrupt_stops_a_reply_and_keeps_what_was_said(tokenizer):
    printed, contexts = in_terminal(tokenizer, ["one", "two"], "a^C")
    assert printed == f"{HELP}\nbot: a (stopped)\nbot: r1\n"
    assert contexts[1] == "[CLS]one[SEP]a[SEP]two[SEP]"


def test_interrupt_before_the_first_piece_forgets_the_line(tokenizer):
    def interrupt(context, on_text):
        raise KeyboardInterrupt

    written, typed = [], iter(["one"])
    conversation = conversation_of(tokenizer)
    chat_loop(conversation, interrupt, lambda: next(typed, None), written.append, live=True)
    assert written[1:] == ["bot: ", "(stopped)\n"]
    assert tokenizer.hf_tokenizer.decode(conversation.ask("two")) == "[CLS]two[SEP]"


def test_interrupt_at_the_prompt_exits_130(tokenizer, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "_read_pipe", interrupt)
    assert run_session(conversation_of(tokenizer), Echo(tokenizer)) == 130
