"""The lines that a run prints, and the commands among them."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from dialog_trainer.reporting.console import (
    closing_lines,
    describe_checkpoint,
    make_printer,
    sample_lines,
)
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.saved_state import SavedState
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


STATE = {
    "step": 4, "validated_step": 4, "tokens_seen": 0, "user_tokens_seen": 0, "assistant_tokens_seen": 0,
    "best": {"loss": 2.5, "loss_step": 4, "score": 0.0, "score_step": 4, "bad_validations": 0},
    "held_out": "x", "digest": {}, "threads": 1, "device": "cpu", "processes": 1, "versions": {},
}  # fmt: skip
LATER = STATE | {"step": 1200, "best": {**STATE["best"], "loss": 1.25, "loss_step": 60, "score_ties": 2}}


@pytest.mark.parametrize(
    ("kind", "chosen", "newest", "line"),
    [
        ("last", STATE, STATE, "last, step 4, best score 0.0000, validation loss 2.5000); metric, loss and last are the same"),
        (
            "metric", STATE, LATER,
            "metric, step 4, best score 0.0000, the lowest loss of 3 equal scores); "
            "load_model_type=loss: step 60, validation loss 1.2500; load_model_type=last: step 1,200",
        ),
        (
            "last", LATER, LATER,
            "last, step 1,200); load_model_type=metric: step 4, best score 0.0000, the lowest loss of 3 "
            "equal scores; load_model_type=loss: step 60, validation loss 1.2500",
        ),
        ("metric", STATE, None, "metric, step 4, best score 0.0000, validation loss 2.5000); metric, loss and last are the same"),
    ],
)  # fmt: skip
def test_a_checkpoint_is_described_with_the_others(tmp_path, kind, chosen, newest, line):
    state = tmp_path / "weights" / "last" / "trainer" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps(newest) if newest else "{")
    found = describe_checkpoint(tmp_path, "w", kind, SavedState.model_validate(chosen))
    assert found == f"checkpoint: {tmp_path / 'w'} ({line}"
