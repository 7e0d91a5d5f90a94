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
    "words": {"tokenizer": "13a", "per_reply": 4.0, "per_reference": 7.5},
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
    assert "No replies to score: " in notes(replies=0)


@pytest.mark.parametrize(
    ("dialogues", "clean", "named"), [(4, 40, "4"), (19, 12, "19 and 12"), (20, 20, None), (20, 0, None)]
)
def test_few_dialogues_are_warned_about(dialogues, clean, named):
    text = notes(dialogues=dialogues, clean=CLEAN | {"dialogues": clean})
    assert ("Warning" in text) == (named is not None)
    if named:
        assert f"Warning: scores from {named} dialogues; intervals and p values are rough below about 20." in text


def test_without_a_clean_dialogue_there_is_no_second_table():
    assert [table.title for table in build_tables(SCORED | {"clean": CLEAN})] == [
        "Scores (words by 13a)",
        "Without dialogues that are also in the training split (40 dialogues remain)",
    ]
    empty = {"dialogues": 0, "replies": 0, "scores": {"bleu2": NOTHING}, "baselines": {"gold": {"bleu2": None}}}
    assert [table.title for table in build_tables(SCORED | {"clean": empty})] == ["Scores (words by 13a)"]
    why = "No scores without contamination: each of the 50 dialogues replied to is also in the training split."
    assert why in notes(clean=empty)
    # The loss of a clean dialogue without replies: a dash for each score of replies.
    table = build_tables(SCORED | {"clean": empty | {"scores": {"ppl": SCORE, "bleu2": NOTHING}}})[1]
    assert table.rows[1] == ["bleu2", "-", "-", "-"]


@pytest.mark.parametrize(
    ("words", "gold", "warned"),
    [
        ({}, {}, []),
        ({"per_reply": 1.5}, {}, ["a reply has 1.5 words on average, a reference 7.5 (by 13a)"]),
        (
            {"per_reference": 1.0},
            {"bleu2": 0.0, "bleu1": 1.0, "nist4": 0.1},
            ["a reference 1.0", "not score 1 by bleu2: "],
        ),
    ],
)
def test_replies_of_one_word_are_warned_about(words, gold, warned):
    text = notes(words=SCORED["words"] | words, baselines={"gold": gold})
    assert text.count("Warning") == len(warned)
    assert all(part in text for part in warned)
    # Nothing to say: no reply at all, or whole rows of the original protocol.
    assert "Warning" not in notes(words=SCORED["words"] | words, replies=0) + notes(words=None)


def test_few_dialogues_are_named_in_the_heads():
    tables = build_tables(SCORED | {"dialogues": 19, "clean": CLEAN | {"dialogues": 20}, "compared": COMPARED})
    assert [table.head[2] for table in tables] == ["95 % interval (rough)", "95 % interval", "95 % interval (rough)"]
    assert tables[2].head[3] == "p (rough)"
    assert build_tables(SCORED | {"words": None})[0].title == "Scores"


def test_a_comparison_names_both_checkpoints():
    assert build_tables(SCORED | {"compared": COMPARED})[-1].title.startswith("Difference from two/weights/last")
    text = notes(compared=COMPARED)
    assert "Difference: one/weights/step-00000003 minus two/weights/last, over the same dialogues; p: " in text
    assert "Not compared (no sums over the same two or more dialogues): bleu2" in text
    assert "another signature" not in text
    text = notes(compared=COMPARED | {"same_signature": False, "signature": "protocol:x"})
    assert "Compared with scores of another signature: protocol:x" in text
