import pytest

from dialog_trainer.data.rows import RowError, Tally, cleaned, turns_of_row
from dialog_trainer.records import Dialogue, Role, Turn

U, A, S = Role.USER, Role.ASSISTANT, Role.SYSTEM


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"turns": ["a", "b", "c"]}, [(U, "a"), (A, "b"), (U, "c")]),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]}, [(S, "s"), (U, "a")]),
        ({"conversations": [{"from": "gpt", "value": "b"}, {"from": "human", "value": "a"}]}, [(A, "b"), (U, "a")]),
        ({"turns": [], "id": 3}, []),
    ],
)
def test_three_forms(row, turns):
    assert turns_of_row(row) == [Turn(role, text) for role, text in turns]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["a"], "expected an object with one of turns, messages, conversations; found a list"),
        ({"text": "a"}, "expected one of the keys turns, messages, conversations; found 'text'"),
        ({"turns": "a"}, "'turns' should be a list; found a string"),
        ({"turns": ["a", 3]}, r"turns\[1\] should be a string; found a number"),
        ({"turns": [None]}, r"turns\[0\] should be a string; found null"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] should be an object with 'role' and 'content'"),
        ({"messages": [{"role": "bot", "content": "a"}]}, r"messages\[0\].role is 'bot'; known roles: system, user"),
        ({"messages": [{"role": 1, "content": "a"}]}, r"messages\[0\].role is 1; known roles"),
        ({"turns": ["ab\ud83d"]}, r"lone surrogate\) at position 2; write the whole character"),
    ],
)
def test_what_is_no_dialogue_is_named(row, reason):
    with pytest.raises(RowError, match=reason):
        turns_of_row(row)


def test_empty_turns_and_short_dialogues_are_dropped_and_counted():
    raw = [
        ("0", [Turn(U, " a "), Turn(A, "\n"), Turn(U, "c")]),
        ("1", [Turn(U, "a"), Turn(A, "  ")]),
        ("2", [Turn(U, "a")]),
        ("3", [Turn(U, "a"), Turn(A, "b")]),
    ]
    tally = Tally()
    kept = list(cleaned(raw, tally))
    assert kept == [Dialogue("0", (Turn(U, "a"), Turn(U, "c"))), Dialogue("3", (Turn(U, "a"), Turn(A, "b")))]
    assert tally == Tally(dialogues=2, turns=4, empty_turns=2, short_dialogues=2)
    assert str(tally) == "2 dialogues, 4 turns (dropped: 2 dialogues of fewer than two turns, 2 empty turns)"
