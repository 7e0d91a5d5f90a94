"""Options as they are typed: readable, one word for the shell, and read back by Hydra as the same text."""

import shlex

import pytest

from dialog_trainer.cli.overrides import parse_overrides
from dialog_trainer.command_line import format_override


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("/runs/a-1", "resume_model_dir=/runs/a-1"),
        ("runs", "\"resume_model_dir='runs'\""),
        ("/my runs/it", "\"resume_model_dir='/my runs/it'\""),
    ],
)
def test_an_override_is_quoted_once_and_readable(value, text):
    assert format_override("resume_model_dir", value) == text


@pytest.mark.parametrize("value", ["/a b/it's", "/a$b", "/a`b", '/a"b', "/a\\b", "/a!b", "12", "/a=b,c"])
def test_the_shell_reads_an_override_as_one_word(value):
    [word] = shlex.split(format_override("name", value))
    assert word.startswith("name=")


NAMES = [
    "Monica", "USER_1", "0", "1.0", "-1", "1e5", "true", "NULL", "nan", "O'Neil", '"Q"', "a'\"$b", "a\\", "Dr. Who", "agent:1", "a, b",
    "김철수", "ボブ", "{x}", "[bot]", "a=b", "$x", "#1", "(h)", "x;y", " x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_in_a_mapping_can_be_typed_as_it_is_shown(name):
    [word] = shlex.split(format_override("data.roles", {"assistant": name}))
    [override], errors = parse_overrides([word], {}, sweep=False)
    assert (override.value(), errors) == ({"assistant": name}, [])
