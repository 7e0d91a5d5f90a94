"""Tables of validation scores."""

import pytest

from dialog_trainer.reporting.score_tables import (
    build_depth_table,
    build_difference_table,
    build_score_table,
    render_markdown,
)
from dialog_trainer.reporting.tables import TextTable

SCORED = {
    "checkpoint": "run/weights/step-00000004",
    "split": "test",
    "dialogues": 20,
    "scores": {
        "ppl": {"value": 1234.56, "low": 99.99994, "high": 20123.0},
        "bleu2": {"value": 0.123456, "low": 0.1, "high": 0.15},
        "distinct1": {"value": 0.0, "low": None, "high": None},
    },
    "baselines": {"echo": {"bleu2": 0.05, "distinct1": 0.5}, "gold": {"bleu2": 1.0, "distinct1": 0.25}},
    "by_depth": [
        {"depth": "1", "replies": 1200, "scores": {"bleu2": 0.1, "distinct1": 0.3}},
        {"depth": ">10", "replies": 1, "scores": {"bleu2": 0.0, "distinct1": 1.0}},
    ],
}


def test_each_score_has_its_baselines():
    table = build_score_table("Scores", SCORED)
    assert (table.title, table.head) == ("Scores", ["score", "model", "95 % interval", "echo", "gold"])
    assert table.rows == [
        ["ppl", "1,234.6", "99.9999 to 20,123.0", "-", "-"],
        ["bleu2", "0.1235", "0.1000 to 0.1500", "0.0500", "1.0000"],
        ["distinct1", "0.0000", "-", "0.5000", "0.2500"],
    ]


def test_without_baselines_there_is_no_column():
    table = build_score_table("Scores", SCORED | {"baselines": {}})
    assert table.head == ["score", "model", "95 % interval"]
    assert {len(row) for row in table.rows} == {3}


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (0.0, "0.0000", "0.0000"), (-0.00001, "0.0000", "0.0000"), (0.00006, "0.0001", "+0.0001"), (-0.12345, "-0.1235", "-0.1235"), (99.99, "99.9900", "+99.9900"),
        (100, "100.0", "+100.0"), (-12345.6, "-12,345.6", "-12,345.6"), (999_999_999.0, "999,999,999.0", "+999,999,999.0"),
        (1e9, "1.0e+09", "+1.0e+09"), (-1.014e304, "-1.0e+304", "-1.0e+304"), (None, "-", "-"),
    ],
)  # fmt: skip
def test_numbers(value, plain, signed):
    ends = {"value": value, "difference": value, "low": value, "high": value, "p_value": 0.5}
    shown = build_score_table("t", {"dialogues": 20, "scores": {"x": ends}, "baselines": {"echo": {"x": value}}}).rows[
        0
    ]
    between = "-" if value is None else f"{plain} to {plain}"
    assert shown == ["x", plain, between, plain]
    if value is not None:
        shown = build_difference_table({"with": "other", "differences": {"x": ends}}, 20).rows[0]
        assert shown == ["x", signed, f"{signed} to {signed}", "0.500"]


def test_differences_have_their_sign_and_p_value():
    differences = {
        "bleu2": {"difference": 0.01, "low": -0.002, "high": 0.02, "p_value": 0.0019980019980019},
        "ppl": {"difference": -120.0, "low": -150.0, "high": -90.0, "p_value": 1.0},
    }
    table = build_difference_table({"with": "other/weights/step-00000004", "differences": differences}, 20)
    assert table.title == "Difference from other/weights/step-00000004 (positive: higher here)"
    assert table.head == ["score", "difference", "95 % interval", "p"]
    assert table.rows == [
        ["bleu2", "+0.0100", "-0.0020 to +0.0200", "0.002"], ["ppl", "-120.0", "-150.0 to -90.0000", "1.000"],
    ]  # fmt: skip
    assert build_difference_table({"with": "other", "differences": {}}, 20).rows == []


def test_depths_have_the_number_of_replies():
    table = build_depth_table(SCORED)
    assert table.head == ["depth", "replies", "bleu2", "distinct1"]
    assert table.rows == [["1", "1,200", "0.1000", "0.3000"], [">10", "1", "0.0000", "1.0000"]]
    assert build_depth_table({"by_depth": []}).rows == []


def test_scores_md_holds_notes_and_tables():
    text = render_markdown(
        SCORED, ["Few words .", "a|b"], [build_score_table("Scores", SCORED), build_depth_table(SCORED)]
    )
    lines = text.split("\n")
    assert lines[:5] == ["# Scores of run/weights/step-00000004 on split test", "", "Few words .", "", "a|b"]
    place = lines.index("## Scores")
    assert lines[place + 1 : place + 5] == [
        "",
        "| score | model | 95 % interval | echo | gold |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| ppl | 1,234.6 | 99.9999 to 20,123.0 | - | - |",
    ]
    assert "## By depth of the turn (number of turns before it)" in lines
    assert text.endswith("|\n")


def test_a_bar_within_a_cell_is_escaped():
    table = TextTable("t", ["a", "b"], [["x|y", "1"]])
    assert "| x\\|y | 1 |" in render_markdown(SCORED, [], [table])
