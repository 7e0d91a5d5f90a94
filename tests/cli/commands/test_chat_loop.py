"""The terminal chat: what is read, what is printed, what is remembered."""

import io

import pytest

from dialog_trainer.cli.commands.chat import HELP, MAX_LINE_CHARACTERS, chat_loop
from dialog_trainer.model.generation.conversation import Conversation

WINDOW = 60


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Echo:
    """Says its first replies, then `r` and the number of the reply, in two pieces; keeps its contexts as text."""

    def __init__(self, tokenizer, *first: str):
        self.tokenizer, self.first = tokenizer, first
        self.seen: list[str] = []

    def __call__(self, context, on_text) -> str:
        number = len(self.seen)
        self.seen.append(self.tokenizer.hf_tokenizer.decode(context))
        said = self.first[number] if number < len(self.first) else f"r{number}"
        on_text(said[:1])
        on_text(said[1:])
        return said


def talked(tokenizer, typed: str, *first: str, kind=io.StringIO) -> tuple[str, list[str]]:
    """What was printed, and the contexts that the model saw."""
    model, out = Echo(tokenizer, *first), io.StringIO()
    chat_loop(Conversation(tokenizer, window=WINDOW, max_new_tokens=20), model, kind(typed), out)
    return out.getvalue(), model.seen


def test_piped_each_line_gives_one_line_until_the_end_of_input(tokenizer):
    assert talked(tokenizer, "one\ntwo\nthree") == (
        "r0\nr1\nr2\n",
        ["[CLS]one[SEP]", "[CLS]one[SEP]r0[SEP]two[SEP]", "[CLS]one[SEP]r0[SEP]two[SEP]r1[SEP]three[SEP]"],
    )


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("", "(an empty line: type something, or /quit)"),
        (" \t ", "(an empty line: type something, or /quit)"),
        ("/foo bar", "(there is no /foo: /reset or /quit)"),
        ("/", "(there is no /: /reset or /quit)"),
        ("!" * 50, "(that line has 51 tokens and the window holds 39: send a shorter one)"),
        ("!" * MAX_LINE_CHARACTERS, "(that line has more than 100,000 characters: send a shorter one)"),
        ("!" * (3 * MAX_LINE_CHARACTERS + 7), "(that line has more than 100,000 characters: send a shorter one)"),
    ],
    ids=["empty", "blank", "unknown", "slash", "too many tokens", "long", "very long"],
)
def test_a_line_that_is_not_said_to_the_model_gives_one_line_and_is_not_remembered(tokenizer, line, printed):
    assert talked(tokenizer, f"one\n{line}\ntwo\n") == (
        f"r0\n{printed}\nr1\n",
        ["[CLS]one[SEP]", "[CLS]one[SEP]r0[SEP]two[SEP]"],
    )


def test_reset_forgets_the_conversation(tokenizer):
    assert talked(tokenizer, "one\n/reset\ntwo\n") == ("r0\n(forgotten)\nr1\n", ["[CLS]one[SEP]", "[CLS]two[SEP]"])


@pytest.mark.parametrize("typed", ["one\n/quit\ntwo\n", "one\n  /quit  \ntwo\n", "one"])
def test_quit_and_the_end_of_input_leave(tokenizer, typed):
    assert talked(tokenizer, typed) == ("r0\n", ["[CLS]one[SEP]"])


def test_no_input_gives_no_output(tokenizer):
    assert talked(tokenizer, "") == ("", [])


@pytest.mark.parametrize("reply", ["a\nb", "a\r\nb", "a\rb", "a\u2028b", "a\x0bb", "a\x85b"])
def test_a_reply_of_several_lines_is_one_line_where_it_is_piped(tokenizer, reply):
    printed, _ = talked(tokenizer, "one\n", reply)
    assert printed == "a b\n"
    assert len(printed.splitlines()) == 1


def test_an_empty_reply_is_said_to_be_one_and_its_line_forgotten(tokenizer):
    assert talked(tokenizer, "one\ntwo\n", "") == ("(no reply)\nr1\n", ["[CLS]one[SEP]", "[CLS]two[SEP]"])


def test_a_lone_surrogate_is_replaced(tokenizer):
    assert talked(tokenizer, "a \ud800 b\n\udfff\n") == (
        "r0\nr1\n",
        ["[CLS]a ? b[SEP]", "[CLS]a ? b[SEP]r0[SEP]?[SEP]"],
    )


def test_full_windows_lose_their_first_turns(tokenizer):
    _, seen = talked(tokenizer, "\n".join("abcdefgh"), *["!" * 9] * 8)
    assert seen[2] == f"[CLS]a[SEP]{'!' * 9}[SEP]b[SEP]{'!' * 9}[SEP]c[SEP]"
    assert seen[-1] == "[CLS]" + "".join(f"{line}[SEP]{'!' * 9}[SEP]" for line in "efg") + "h[SEP]"


def test_on_a_terminal_there_is_help_a_prompt_and_the_reply_in_pieces(tokenizer):
    printed, _ = talked(tokenizer, "one\n/reset\n\n", "r\n0", kind=Terminal)
    empty = "(an empty line: type something, or /quit)"
    assert printed == f"{HELP}\nyou: bot: r\n0\nyou: (forgotten)\nyou: {empty}\nyou: "


def test_on_a_terminal_an_empty_reply_is_said_once(tokenizer):
    printed, _ = talked(tokenizer, "one\n/quit\n", "", kind=Terminal)
    assert printed == f"{HELP}\nyou: bot: (no reply)\nyou: "
