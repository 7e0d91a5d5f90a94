"""What mode=inspect prints: tables of the coverage of a mask, and sequences with their weights."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from dialog_trainer.masking.coverage import measure_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.reporting.tables import TextTable, build_mask_tables
from dialog_trainer.reporting.terminal import layout_table, print_sequence, print_tables, print_texts
from dialog_trainer.types import Role, TurnSpans

START, SYSTEM, USER, ASSISTANT, END = Role.FORMAT, Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.END
# role, turn, length, lost: a complete dialogue, one truncated within its user turn, and one of a late turn alone.
SEQUENCES = [
    [(START, 0, 1, 0), (SYSTEM, 0, 4, 0), (USER, 1, 5, 0), (ASSISTANT, 2, 10, 0), (END, 2, 1, 0)],
    [(START, 0, 1, 0), (USER, 0, 6, 3), (ASSISTANT, 1, 0, 7), (END, 1, 0, 1)],
    [(START, 12, 1, 0), (USER, 12, 2, 0), (ASSISTANT, 13, 3, 0), (END, 13, 1, 0)],
]


def make_spans() -> TurnSpans:
    rows = np.array([span for sequence in SEQUENCES for span in sequence])
    counts = np.array([len(sequence) for sequence in SEQUENCES])
    return TurnSpans(*rows.T, np.ones(len(rows), dtype=np.float32), counts, np.arange(len(SEQUENCES)))


@pytest.fixture
def tables():
    points = (RoleWeights(1.0), RoleWeights(0.0))
    coverage = measure_coverage(
        [(0, np.zeros(0), make_spans())], Mask(schedule=None), points, np.ones(3, dtype=bool), len(SEQUENCES)
    )
    return {table.title: table for table in build_mask_tables(coverage, [0.0, 0.5])}


@pytest.mark.parametrize(
    ("title", "head", "rows"),
    [
        (
            "Tokens by role",
            ["role", "tokens", "trained at progress 0.00", "trained at progress 0.50"],
            [
                ["user", "13", "100.0 %", "0.0 %"],
                ["assistant", "13", "100.0 %", "100.0 %"],
                ["system", "4", "0.0 %", "0.0 %"],
                ["end", "2", "100.0 %", "100.0 %"],
                ["format", "3", "0.0 %", "0.0 %"],
                ["all", "35", "80.0 %", "42.9 %"],
            ],
        ),
        (
            "Tokens by turn",
            ["turn", "tokens", "trained at progress 0.00", "trained at progress 0.50"],
            [
                ["0", "10", "60.0 %", "0.0 %"],
                ["1", "5", "100.0 %", "0.0 %"],
                ["2", "10", "100.0 %", "100.0 %"],
                ["after 10", "5", "100.0 %", "60.0 %"],
            ],
        ),
        (
            "Truncation",
            ["unit", "truncated", "of all", "percent"],
            [
                ["tokens of turns", "10", "40", "25.0 %"],
                ["turns cut", "1", "7", "14.3 %"],
                ["turns removed", "1", "7", "14.3 %"],
                ["ends of dialogues removed", "1", "3", "33.3 %"],
                ["dialogues with any of these", "1", "3", "33.3 %"],
            ],
        ),
        (
            "Without a trained token",
            ["unit", "of all", "untrained at progress 0.00", "untrained at progress 0.50"],
            [["dialogues", "3", "0", "1"], ["sequences", "3", "0", "1"]],
        ),
    ],
)
def test_mask_tables_by_hand(tables, title, head, rows):
    assert (tables[title].head, tables[title].rows) == (head, rows)


def printed(show, width: int = 100, **options) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    show(console)
    return console.file.getvalue()


def shown(spans, points, progress=(0.0, 0.75), *, name=("7", 1, 1), note="", **options) -> str:
    """What is printed of a sequence; of each span its role, texts, truncated tokens, weight, and weight at random."""
    sequence = {
        **dict(zip(("id", "part", "parts"), name, strict=True)),
        "tokens": sum(len(texts) for _, texts, *_ in spans),
        "note": note,
        "spans": [
            {"role": role, "turn": turn, "texts": texts, "lost": lost, "weight": weight, "random_weight": at_random}
            for turn, (role, texts, lost, weight, at_random) in enumerate(spans)
        ],
    }
    return printed(lambda console: print_sequence(console, sequence, progress, points), **options)


USER_FACTORS, ASSISTANT_FACTORS = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]


def test_a_sequence_shows_tokens_roles_and_weights_as_text():
    spans = [
        ("user", ["[red]Hi", " there"], 0, USER_FACTORS, None),
        ("assistant", ["Yes\x1b[31m"], 4, ASSISTANT_FACTORS, None),
    ]
    text = shown(spans, [RoleWeights(1.0), RoleWeights(0.1)], name=("7\x1b[2J", 1, 1))
    assert text.splitlines()[0].strip() == "dialogue 7\\x1b[2J: 3 tokens"
    lines = [line.split() for line in text.splitlines()]
    assert lines[1:3] == [["weight", "weight"], ["role", "turn", "at", "0.00", "at", "0.75", "tokens"]]
    assert lines[3] == ["user", "0", "1", "0.1", "[red]Hi|", "there"]
    assert lines[4] == ["assistant", "1", "1", "1", "Yes\\x1b[31m", "(4", "tokens", "truncated)"]


def test_a_turn_drawn_at_random_has_its_random_weight():
    points = [RoleWeights(0.5, 1.0, random_roles=True), RoleWeights(0.5, 1.0)]
    spans = [("user", ["Hi"], 0, USER_FACTORS, ASSISTANT_FACTORS), ("end", ["."], 0, [0.0, 0.0, 1.0], None)]
    lines = [line.split()[:4] for line in shown(spans, points).splitlines()[3:5]]
    assert lines == [["user", "0", "1", "0.5"], ["end", "1", "1", "1"]]


def test_a_sequence_names_its_part_and_that_it_is_not_used():
    text = shown(
        [("user", ["Hi"], 0, USER_FACTORS, None)], [RoleWeights(1.0)], [0.0], name=("7", 2, 3), note="not used"
    )
    assert " ".join(text.split()).startswith("dialogue 7, part 2 of 3: 1 token, not used")


def test_weight_0_at_the_last_point_is_dim():
    def one(*weights):
        spans, points = [("user", ["Hi"], 0, USER_FACTORS, None)], [RoleWeights(weight) for weight in weights]
        return shown(spans, points, force_terminal=True, color_system="standard")

    assert "\x1b[2;" in one(1.0, 0.0)
    assert "\x1b[2;" not in one(0.0, 1.0)


def test_tables_are_text_not_markup(tables):
    tables["Truncation"].rows[0][0] = "[bold]x\x1b[31m"
    assert "[bold]x\\x1b[31m" in printed(lambda console: print_tables(console, list(tables.values())))


SWEEP = TextTable(
    "Jobs",
    ["options", "job", "end", "best loss (nats per token)", "at step", "best score", "at step"],
    [
        ["mask_schedule=step optim.lr0=0.0001 train_user_turn_mask_step=0.5 seed=0 model=gpt2_tiny steps=30000", "0",
         "done", "4.2500", "30,000", "0.0123", "15,000"],
        ["mask_schedule=constant", "11", "exit code 130", "-", "-", "-", "-"],
    ],
)  # fmt: skip
WIDE = TextTable("Scores", ["score", *(f"baseline{n}" for n in range(12))], [["bleu2", *["0.123456"] * 12]])


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("table", [SWEEP, WIDE], ids=["sweep", "wide"])
def test_tables_are_complete_at_any_width(table, width):
    text = printed(lambda console: print_tables(console, [table]), width, force_terminal=True, color_system=None)
    assert max(map(len, text.splitlines())) <= width
    words = [word for row in (table.head, *table.rows) for cell in row for word in cell.split()]
    assert not [word for word in words if word not in text.split()]
    # One column of numbers each, however many blocks there are.
    for cell in table.rows[0][1:]:
        assert text.split().count(cell) >= table.rows[0].count(cell)


def test_a_table_that_fits_has_one_line_a_row():
    lines = layout_table(TextTable("t", ["a name", "of two"], [["x", "1"], ["y", "22"]]), 60)
    assert lines == ["a name  of two", "x            1", "y           22"]


def test_headings_wrap_before_columns_move_below():
    table = TextTable("t", ["role", "trained at progress 0.00", "trained at progress 0.50"], [["user", "1 %", "2 %"]])
    assert layout_table(table, 40) == [
        "       trained   trained",
        "            at        at",
        "      progress  progress",
        "role      0.00      0.50",
        "user       1 %       2 %",
    ]
    assert len(layout_table(table, None)) == 2
    assert layout_table(table, 15)[-1] == "user       2 %"


@pytest.mark.parametrize("width", [40, 60, 96])
def test_texts_wrap_in_their_columns(width):
    texts = ["Hi! How are you today?", "Just another day to me, and [bold]no[/bold] \x1b[31mred one", "Fine ."]
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_texts(console, TextTable("A conversation", ["you", "before", "after"], [texts]))
    printed = re.sub("\x1b\\[[0-9;]*m", "", console.file.getvalue())
    assert max(map(len, printed.splitlines())) <= width
    words = f"A conversation you before after {' '.join(texts)}".replace("\x1b", "\\x1b").split()
    assert sorted(printed.split()) == sorted(words)
