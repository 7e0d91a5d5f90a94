"""What mode=inspect prints: tables of a survey, and sequences with their weights."""

import io

import numpy as np
import pytest
from rich.console import Console

from dialog_trainer.masking.coverage import measure_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.reporting.tables import build_mask_tables
from dialog_trainer.reporting.terminal import print_sequence, print_tables, printable
from dialog_trainer.types import Role, TurnSpans

START, SYSTEM, USER, ASSISTANT, END = Role.START, Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.END
# role, turn, length, lost: a whole dialogue, one cut to a part of its user's turn, and one of a late turn alone.
SEQUENCES = [
    [(START, 0, 1, 0), (SYSTEM, 0, 4, 0), (USER, 1, 5, 0), (ASSISTANT, 2, 10, 0), (END, 2, 1, 0)],
    [(START, 0, 1, 0), (USER, 0, 6, 3), (ASSISTANT, 1, 0, 7), (END, 1, 0, 1)],
    [(START, 12, 1, 0), (USER, 12, 2, 0), (ASSISTANT, 13, 3, 0), (END, 13, 1, 0)],
]


def made_runs() -> TurnSpans:
    rows = np.array([run for sequence in SEQUENCES for run in sequence])
    counts = np.array([len(sequence) for sequence in SEQUENCES])
    return TurnSpans(*rows.T, np.ones(len(rows), dtype=np.float32), counts, np.arange(len(SEQUENCES)))


@pytest.fixture
def tables():
    points = (RoleWeights(1.0), RoleWeights(0.0))
    found = measure_coverage(
        [(0, np.zeros(0), made_runs())], Mask(schedule=None), points, np.ones(3, dtype=bool), len(SEQUENCES)
    )
    return {table.title: table for table in build_mask_tables(found, [0.0, 0.5])}


@pytest.mark.parametrize(
    ("title", "head", "rows"),
    [
        (
            "Tokens by role",
            ["role", "tokens", "trained at 0.00", "trained at 0.50"],
            [
                ["user", "13", "100.0 %", "0.0 %"],
                ["assistant", "13", "100.0 %", "100.0 %"],
                ["system", "4", "0.0 %", "0.0 %"],
                ["end", "2", "100.0 %", "100.0 %"],
                ["start", "3", "0.0 %", "0.0 %"],
                ["all", "35", "80.0 %", "42.9 %"],
            ],
        ),
        (
            "Tokens by turn",
            ["turn", "tokens", "trained at 0.00", "trained at 0.50"],
            [
                ["0", "10", "60.0 %", "0.0 %"],
                ["1", "5", "100.0 %", "0.0 %"],
                ["2", "10", "100.0 %", "100.0 %"],
                ["after 10", "5", "100.0 %", "60.0 %"],
            ],
        ),
        (
            "Truncation",
            ["what", "lost", "of", "share"],
            [
                ["tokens", "11", "43", "25.6 %"],
                ["turns, some tokens of", "1", "7", "14.3 %"],
                ["turns, whole", "1", "7", "14.3 %"],
                ["ends of dialogues", "1", "3", "33.3 %"],
                ["dialogues, something of", "1", "3", "33.3 %"],
            ],
        ),
        (
            "Without a trained token",
            ["what", "of", "at 0.00", "at 0.50"],
            [["dialogues", "3", "0", "1"], ["sequences", "3", "0", "1"]],
        ),
    ],
)
def test_the_tables_by_hand(tables, title, head, rows):
    assert (tables[title].head, tables[title].rows) == (head, rows)


def printed(show, **options) -> str:
    console = Console(file=io.StringIO(), width=100, **options)
    show(console)
    return console.file.getvalue()


def shown(runs, points, progress=(0.0, 0.75), *, name=("7", 1, 1), note="", **options) -> str:
    """What is printed of a sequence; of each run its role, its texts, what it lost, its weight and that by lot."""
    sequence = {
        **dict(zip(("id", "part", "parts"), name, strict=True)),
        "tokens": sum(len(texts) for _, texts, *_ in runs),
        "note": note,
        "runs": [
            {"role": role, "turn": turn, "texts": texts, "lost": lost, "weight": weight, "lot": lot}
            for turn, (role, texts, lost, weight, lot) in enumerate(runs)
        ],
    }
    return printed(lambda console: print_sequence(console, sequence, progress, points), **options)


OF_USER, OF_ASSISTANT = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]


def test_a_sequence_shows_tokens_roles_and_weights_as_text():
    runs = [
        ("user", ["[red]Hi", " there"], 0, OF_USER, None),
        ("assistant", ["Yes\x1b[31m"], 4, OF_ASSISTANT, None),
    ]
    text = shown(runs, [RoleWeights(1.0), RoleWeights(0.1)])
    assert text.splitlines()[0].strip() == "dialogue 7: 3 tokens"
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["role", "turn", "at", "0.00", "at", "0.75", "tokens"]
    assert lines[2] == ["user", "0", "1", "0.1", "[red]Hi|", "there"]
    assert lines[3] == ["assistant", "1", "1", "1", "Yes\\x1b[31m", "(4", "tokens", "lost)"]


def test_a_turn_drawn_by_lot_weighs_what_its_lot_says():
    points = [RoleWeights(0.5, 1.0, by_lot=True), RoleWeights(0.5, 1.0)]
    text = shown([("user", ["Hi"], 0, OF_USER, OF_ASSISTANT), ("end", ["."], 0, [0.0, 0.0, 1.0], None)], points)
    assert [line.split()[:4] for line in text.splitlines()[2:4]] == [["user", "0", "1", "0.5"], ["end", "1", "1", "1"]]


def test_a_sequence_says_which_part_it_is_and_that_it_is_left_out():
    text = shown([("user", ["Hi"], 0, OF_USER, None)], [RoleWeights(1.0)], [0.0], name=("7", 2, 3), note="left out")
    assert " ".join(text.split()).startswith("dialogue 7, part 2 of 3: 1 tokens, left out role turn at 0.00 tokens")


def test_what_weighs_nothing_at_the_last_point_is_dim():
    def one(*weights):
        runs, points = [("user", ["Hi"], 0, OF_USER, None)], [RoleWeights(weight) for weight in weights]
        return shown(runs, points, force_terminal=True, color_system="standard")

    assert "\x1b[2;" in one(1.0, 0.0)
    assert "\x1b[2;" not in one(0.0, 1.0)


def test_tables_are_text_not_markup(tables):
    tables["Truncation"].rows[0][0] = "[bold]x"
    assert "[bold]x" in printed(lambda console: print_tables(console, list(tables.values())))


@pytest.mark.parametrize(("text", "shown"), [("a b", "a b"), ("\n\t", "\\n\\t"), ("\x9b", "\\x9b"), ("é…ü", "é…ü")])
def test_no_control_character_reaches_the_terminal(text, shown):
    assert printable(text) == shown
