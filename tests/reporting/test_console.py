"""The lines that a run prints, and the commands among them."""

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from dialog_trainer.reporting.console import closing_lines, format_override, make_printer, sample_lines
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.types import Reply


def printed(*lines: str) -> str:
    out = io.StringIO()
    say = make_printer(Console(file=out, force_terminal=True, width=40, color_system="standard"))
    for line in lines:
        say(line)
    return out.getvalue()


def test_lines_are_printed_unbroken_without_markup_or_escapes():
    assert printed("[red]a[/red] 1 " + "x" * 60) == "[red]a[/red] 1 " + "x" * 60 + "\n"
    assert printed("two\nlines", "\x1b[2J\x07\x9b") == "two\nlines\n\\x1b[2J\\x07\\x9b\n"


def test_samples_are_short_single_lines_without_escapes():
    reply = Reply("1", 1, ("hello\n\nthere",), "gold " * 100, "\x1b]0;title\x07 yes", True)
    lines = sample_lines([reply])
    assert lines[0] == "  given hello there"
    assert printed(lines[1]) == "  model \\x1b]0;title\\x07 yes\n"
    assert lines[2].endswith(" ...")
    assert len(lines[2]) == 208


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


@pytest.mark.parametrize(
    ("outcome", "commands"),
    [
        ("finished", ["mode=validate resume_model_dir=/runs/r split=test", "mode=chat resume_model_dir=/runs/r"]),
        ("interrupted", ["mode=resume resume_model_dir=/runs/r load_model_type=last processes=2"]),
    ],
)
def test_the_end_of_a_run_names_the_commands_to_type_next(outcome, commands):
    best = BestTracker(loss=1.5, loss_step=20, score=0.25, score_step=10)
    first, second, *rest = closing_lines(Path("/runs/r"), outcome, 1200, best, "test", ["processes=2"])
    assert first == f"{outcome} at step 1,200; checkpoints in /runs/r/weights: last (step 1,200)"
    assert second == "  best_metric (step 10, score 0.2500), best_loss (step 20, loss 1.5000)"
    assert [line.partition("python -m dialog_trainer ")[2] for line in rest] == commands
