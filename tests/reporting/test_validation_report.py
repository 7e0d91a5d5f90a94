"""Tables and notes of mode=validate."""

import pytest

from dialog_trainer.evaluation.baselines import BASELINES, DESCRIPTIONS, MODEL_AS_HUMAN
from dialog_trainer.reporting.validation_report import build_notes, build_tables

SCORE = {"value": 0.5, "low": 0.4, "high": 0.6}
LOSSES = {f"{role}_{key}": 1 for role in ("assistant", "user", "end") for key in ("nll", "tokens")}
SCORED = {
    "checkpoint": "one/weights/step-00000003", "signature": "protocol:response", "validation_loss": 2.5,
    "losses": LOSSES, "dialogues": 50, "replies": 70, "scores": {"ppl": SCORE, "bleu2": SCORE},
    "baselines": {"echo": {"bleu2": 0.1}, "gold": {"bleu2": 1.0}}, "clean": None, "by_depth": [],
}  # fmt: skip
CLEAN = {"dialogues": 40, "replies": 45, "scores": {"bleu2": SCORE}, "baselines": {"echo": {"bleu2": 0.1}}}
NOTHING = {"value": None, "low": None, "high": None}
COMPARED = {
    "with": "two/weights/last", "signature": "protocol:response", "same_signature": True,
    "differences": {"ppl": {"difference": 1.0, "low": 0.5, "high": 1.5, "p_value": 0.01}},
}  # fmt: skip


def notes(**changes) -> str:
    return "\n".join(build_notes(SCORED | changes, split_size=50))


def test_a_legend_describes_each_baseline():
    assert "Columns: echo = the last turn again; gold = the reference itself." in notes()
    assert "Columns" not in notes(baselines={})
    assert DESCRIPTIONS.keys() == {*BASELINES, MODEL_AS_HUMAN}


def test_counts_loss_and_signature_are_named():
    assert "70 replies in 50 dialogues." in notes()
    assert "70 replies in 40 dialogues (metrics.max_dialogues=null: in all 50)." in notes(dialogues=40)
    assert "Loss 2.5000: " in notes()
    assert "Signature: protocol:response" in notes()
    assert "No replies: " in notes(replies=0)


@pytest.mark.parametrize(
    ("dialogues", "clean", "named"), [(4, 40, "4"), (29, 12, "29 and 12"), (30, 30, None), (30, 0, None)]
)
def test_few_dialogues_are_warned_about(dialogues, clean, named):
    text = notes(dialogues=dialogues, clean=CLEAN | {"dialogues": clean})
    assert ("Warning" in text) == (named is not None)
    if named:
        assert f"Warning: scores from {named} dialogues; intervals and p values are rough below about 30." in text


def test_without_a_clean_dialogue_there_is_no_second_table():
    assert [table.title for table in build_tables(SCORED | {"clean": CLEAN})] == [
        "Scores",
        "Without dialogues that are also in the training split (40 dialogues remain)",
    ]
    empty = {"dialogues": 0, "replies": 0, "scores": {"bleu2": NOTHING}, "baselines": {"gold": {"bleu2": None}}}
    assert [table.title for table in build_tables(SCORED | {"clean": empty})] == ["Scores"]
    why = "No scores without contamination: each of the 50 dialogues replied to is also in the training split."
    assert why in notes(clean=empty)
    # The loss of a clean dialogue without replies: a dash for each score of replies.
    table = build_tables(SCORED | {"clean": empty | {"scores": {"ppl": SCORE, "bleu2": NOTHING}}})[1]
    assert table.rows[1] == ["bleu2", "-", "-", "-"]


def test_a_comparison_names_both_checkpoints():
    assert build_tables(SCORED | {"compared": COMPARED})[-1].title.startswith("Difference from two/weights/last")
    text = notes(compared=COMPARED)
    assert "Difference: one/weights/step-00000003 minus two/weights/last, over the same dialogues; p: " in text
    assert "Not compared (no sums over the same two or more dialogues): bleu2" in text
    assert "another signature" not in text
    text = notes(compared=COMPARED | {"same_signature": False, "signature": "protocol:x"})
    assert "Compared with scores of another signature: protocol:x" in text
