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


FORMS = "turns, messages, conversations"
ROLES = "system, user, human, assistant, gpt"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["a"], f"expected an object with one of {FORMS}; found a list"),
        (None, f"expected an object with one of {FORMS}; found null"),
        (1.5, f"expected an object with one of {FORMS}; found a number"),
        ({"text": "a", "id": 1}, f"expected one of the keys {FORMS}; found 'text', 'id'"),
        ({}, f"expected one of the keys {FORMS}; found none"),
        ({"turns": "a"}, "'turns' should be a list; found a string"),
        ({"messages": {}}, "'messages' should be a list; found an object"),
        ({"turns": ["a", 3]}, "turns[1] should be a string; found a number"),
        ({"turns": [None]}, "turns[0] should be a string; found null"),
        ({"turns": [True]}, "turns[0] should be a string; found a boolean"),
        ({"turns": [b"a"]}, "turns[0] should be a string; found bytes"),
        ({"messages": ["a"]}, "messages[0] should be an object with 'role' and 'content'; found a string"),
        (
            {"messages": [{"role": "user"}]},
            "messages[0] should be an object with 'role' and 'content'; found an object",
        ),
        ({"conversations": [{"from": "gpt", "value": []}]}, "conversations[0].value should be a string; found a list"),
        ({"conversations": [{"from": "me", "value": ""}]}, f"conversations[0].from is 'me'; known roles: {ROLES}"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, f"messages[0].role is ['user']; known roles: {ROLES}"),
        (
            {"turns": ["a", "ab\ud83d"]},
            "turns[1] holds half of a character ('\\ud83d', a lone surrogate) at position 2; write the whole character",
        ),
    ],
)
def test_what_is_no_dialogue_is_named(row, reason):
    with pytest.raises(RowError) as error:
        turns_of_row(row)
    assert str(error.value) == reason


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
    assert str(Tally(dialogues=1000, turns=2000)) == "1,000 dialogues, 2,000 turns"
    assert str(tally) == "2 dialogues, 4 turns (dropped: 2 dialogues of fewer than two turns, 2 empty turns)"
