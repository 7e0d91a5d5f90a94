"""Texts of others on a screen: nothing drives a terminal, nothing fills it."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialog_trainer.screen import MAX_LINE_CHARACTERS, MAX_LINES, printable, printable_lines, shorten, write_line


@given(st.text())
def test_no_control_character_reaches_a_terminal(text):
    for character in printable(text) + printable_lines(text).replace("\n", "").replace("\t", ""):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
        assert unicodedata.category(character) != "Cf" or character in "\u200c\u200d"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b é…ü 한국어\u3000말\xa0", "a b é…ü 한국어\u3000말\xa0"),
        ("\U0001f469\u200d\U0001f4bb ok", "\U0001f469\u200d\U0001f4bb ok"),
        ("\x1b]0;title\x07 \x9b2J", "\\x1b]0;title\\x07 \\x9b2J"),
        ("a\u202egpj.exe\u2066", "a\\u202egpj.exe\\u2066"),
        ("back\b\rover\x7f\x00", "back\\x08\\rover\\x7f\\x00"),
        ("\ud800\u2028\x85", "\\ud800\\u2028\\x85"),
        ("two\nlines\t", "two\\nlines\\t"),
    ],
)
def test_what_is_shown(text, shown):
    assert printable(text) == shown
    if "\n" not in text:
        assert printable_lines(text) == shown


def test_line_ends_and_tabs_are_layout_in_a_message():
    assert printable_lines("title:\n\t- one\r\n") == "title:\n\t- one\\r\n"


def test_a_long_message_keeps_its_place_and_its_remedy():
    line = f"file.jsonl:3: {'x' * 31_457_440}: shorten it"
    out = io.StringIO()
    write_line("\n".join([line, *["more"] * 100_000, "the remedy"]), out)
    text = out.getvalue()
    assert text.startswith("file.jsonl:3: xxx")
    assert ": shorten it\n" in text
    assert text.endswith("more\nthe remedy\n")
    assert f"({len(line) - 4_000:,} characters left out)" in text
    assert "(99,802 lines left out)" in text
    assert len(text) < 10_000


@given(st.text(st.sampled_from("ab\n"), max_size=3 * MAX_LINES))
def test_a_message_of_usual_size_is_whole(text):
    assert shorten(text) == text or text.count("\n") >= MAX_LINES


def test_the_longest_path_is_whole():
    line = "resume: " + "/abc" * 1024
    assert len(line) <= MAX_LINE_CHARACTERS
    assert shorten(line) == line
