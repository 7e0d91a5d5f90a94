"""Rows: the three forms, weights, references, and an error with its place for everything else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.sources.row_format import (
    MAX_WEIGHT,
    ReadCounts,
    RowError,
    alternate_roles,
    clean_dialogues,
    parse_row,
)
from dialog_trainer.types import Dialogue, Role, Turn

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
    assert parse_row(row) == [Turn(role, text) for role, text in turns]


def test_defaults_are_alternating_roles_and_weight_1():
    assert alternate_roles(["a", "b", "c"]) == [Turn(U, "a", 1.0), Turn(A, "b", 1.0), Turn(U, "c", 1.0)]


# Keys of an item, and the weight that they give.
WEIGHT_KEYS = [
    ({"weight": 0.5}, 0.5), ({"weight": 0}, 0.0), ({"weight": 1}, 1.0), ({"weight": MAX_WEIGHT}, 1000.0),
    ({"train": False}, 0.0), ({"train": True}, 1.0), ({"note": 3}, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "weight"), WEIGHT_KEYS)
def test_an_item_of_each_form_may_give_a_weight(keys, weight):
    rows = [
        {"turns": [{"text": "a", **keys}, "b"]},
        {"messages": [{"role": "user", "content": "a", **keys}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a", **keys}, {"from": "gpt", "value": "b"}]},
    ]
    for row in rows:
        turns = parse_row(row)
        assert turns == [Turn(U, "a", weight), Turn(A, "b", 1.0)]
        assert type(turns[0].weight) is float


def test_turns_may_be_texts_or_objects():
    row = {"turns": ["a", {"text": "b", "train": False}, {"text": "c"}, {"text": "d", "weight": 2}]}
    assert parse_row(row) == [Turn(U, "a"), Turn(A, "b", 0.0), Turn(U, "c"), Turn(A, "d", 2.0)]


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.booleans(), st.floats(0, MAX_WEIGHT), st.integers(0, MAX_WEIGHT)), max_size=6))
def test_every_weight_within_the_bound_is_kept(given):
    """A boolean is under `train`, a number under `weight`; None is a turn with neither."""
    keys = [{} if w is None else {"train" if isinstance(w, bool) else "weight": w} for w in given]
    turns = parse_row({"turns": [{"text": "a", **item} for item in keys]})
    assert [turn.weight for turn in turns] == [1.0 if w is None else float(w) for w in given]


@pytest.mark.parametrize("keys", [{}, {"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_a_system_turn_may_have_weight_0(keys):
    (turn,) = parse_row({"messages": [{"role": "system", "content": "s", **keys}]})
    assert (turn.role, turn.text) == (S, "s")


FORMS = "turns, messages, conversations"
RANGE = "it should be a number from 0 to 1,000"
SYSTEM = "gives a loss weight to a system turn, which is never trained; leave it out"
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
        ({"turns": [{"txt": "a"}]}, "turns[0] should be an object with 'text'; found an object"),
        ({"turns": [{"text": 3}]}, "turns[0].text should be a string; found a number"),
        ({"turns": ["a", {"text": "b", "weight": -0.5}]}, f"turns[1].weight is -0.5; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": -1}]}, f"turns[1].weight is -1; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": float("nan")}]}, f"turns[1].weight is nan; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": float("inf")}]}, f"turns[1].weight is inf; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": 1000.1}]}, f"turns[1].weight is 1000.1; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": 1001}]}, f"turns[1].weight is 1001; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": "0.5"}]}, f"turns[1].weight is '0.5'; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": True}]}, f"turns[1].weight is True; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": None}]}, f"turns[1].weight is None; {RANGE}"),
        ({"turns": ["a", {"text": "b", "weight": [1]}]}, f"turns[1].weight is [1]; {RANGE}"),
        ({"turns": ["a", {"text": "b", "train": 0}]}, "turns[1].train should be true or false; found 0"),
        ({"turns": ["a", {"text": "b", "train": None}]}, "turns[1].train should be true or false; found None"),
        ({"turns": ["a", {"text": "b", "train": "false"}]}, "turns[1].train should be true or false; found 'false'"),
        ({"turns": [{"text": "a", "train": True, "weight": 1}]}, "turns[0] has both 'train' and 'weight'; keep one"),
        ({"messages": [{"role": "user", "content": "a", "weight": -1}]}, f"messages[0].weight is -1; {RANGE}"),
        ({"messages": [{"role": "system", "content": "s", "weight": 0.5}]}, f"messages[0] {SYSTEM}"),
        ({"messages": [{"role": "system", "content": "s", "train": True}]}, f"messages[0] {SYSTEM}"),
        ({"conversations": [{"from": "gpt", "value": "b", "weight": "1"}]}, f"conversations[0].weight is '1'; {RANGE}"),
        ({"conversations": [{"from": "system", "value": "s", "weight": 1}]}, f"conversations[0] {SYSTEM}"),
    ],
)
def test_a_row_that_is_no_dialogue_is_named(row, reason):
    with pytest.raises(RowError) as error:
        parse_row(row)
    assert str(error.value) == reason


def test_empty_turns_and_short_dialogues_are_dropped_and_counted():
    raw = [
        ("0", [Turn(U, " a ", 0.25), Turn(A, "\n", 3.0), Turn(U, "c", 0.0)]),
        ("1", [Turn(U, "a"), Turn(A, "  ")]),
        ("2", [Turn(U, "a")]),
        ("3", [Turn(U, "a"), Turn(A, "b")]),
    ]
    counts = ReadCounts()
    kept = list(clean_dialogues(raw, counts))
    weighted = (Turn(U, "a", 0.25), Turn(U, "c", 0.0))
    assert kept == [Dialogue("0", weighted), Dialogue("3", (Turn(U, "a"), Turn(A, "b")))]
    assert counts == ReadCounts(dialogues=2, turns=4, empty_turns=2, short_dialogues=2)
    assert str(ReadCounts(dialogues=1000, turns=2000)) == "1,000 dialogues, 2,000 turns"
    assert str(counts) == "2 dialogues, 4 turns (dropped: 2 dialogues of fewer than two turns, 2 empty turns)"


# One list for each turn after the first; of fewer lists, or an empty one, a turn has none.
REFERENCES = [
    ([["x", "y"], ["z"]], [(), ("x", "y"), ("z",)]),
    ([["x"]], [(), ("x",), ()]),
    ([[], ["z"]], [(), (), ("z",)]),
    ([[], []], [(), (), ()]),
    ([], [(), (), ()]),
    ([[" x ", "\t"], [""]], [(), ("x", ""), ("",)]),  # stripped, and an empty text is one
    ([["x", "x"], ["b"]], [(), ("x", "x"), ("b",)]),
    ([["x"], ["b"], [], []], [(), ("x",), ("b",)]),  # empty lists for missing turns
]


@pytest.mark.parametrize(("references", "expected"), REFERENCES)
def test_a_row_of_each_form_may_give_references(references, expected):
    rows = [
        {"turns": ["a", {"text": "b", "weight": 0.5}, "c"]},
        {"messages": [{"role": r, "content": t} for r, t in (("system", "a"), ("user", "b"), ("assistant", "c"))]},
        {"conversations": [{"from": r, "value": t} for r, t in (("gpt", "a"), ("human", "b"), ("gpt", "c"))]},
    ]
    for row in rows:
        plain = parse_row(row)
        assert all(turn.references == () for turn in plain)
        turns = parse_row(row | {"references": references})
        assert [turn.references for turn in turns] == expected
        assert [(t.role, t.text, t.weight) for t in turns] == [(t.role, t.text, t.weight) for t in plain]


LISTS = "'references' should be a list of lists of strings"


@pytest.mark.parametrize(
    ("turns", "references", "reason"),
    [
        (3, None, f"{LISTS}; found null"),
        (3, "x", f"{LISTS}; found a string"),
        (3, {"0": ["x"]}, f"{LISTS}; found an object"),
        (3, ["x"], "references[0] should be a list of strings; found a string"),
        (3, [["x"], None], "references[1] should be a list of strings; found null"),
        (3, [[["x"]]], "references[0][0] should be a string; found a list"),
        (3, [["x", 3]], "references[0][1] should be a string; found a number"),
        (3, [[], ["a\ud83d"]], "references[1][0] holds half of a character ('\\ud83d', a lone surrogate) at position 1; "
                               "write the whole character"),
        (3, [[], [], ["x"]], "'references' has 3 lists for 2 turns after the first"),
        (3, [["x"]] * 4, "'references' has 4 lists for 2 turns after the first"),
        (1, [["x"]], "'references' has 1 lists for 0 turns after the first"),
        (0, [["x"]], "'references' has 1 lists for 0 turns after the first"),
    ],
)  # fmt: skip
def test_bad_references_are_named(turns, references, reason):
    with pytest.raises(RowError) as error:
        parse_row({"turns": ["a"] * turns, "references": references})
    assert str(error.value) == reason


def test_empty_references_are_allowed():
    assert parse_row({"turns": [], "references": []}) == []
    assert parse_row({"turns": ["a"], "references": [[]]}) == [Turn(U, "a")]


def test_references_stay_with_their_turn():
    turns = parse_row({"turns": ["a", "", " c "], "references": [["x"], ["y"]]})
    (dialogue,) = clean_dialogues([("0", turns)], ReadCounts())
    assert dialogue.turns == (Turn(U, "a"), Turn(U, "c", 1.0, ("y",)))


@pytest.mark.parametrize(
    ("key", "meant"),
    [("wieght", "weight"), ("Weight", "weight"), ("weights", "weight"), ("Train", "train"), ("trian", "train")],
)
def test_a_misspelt_mask_key_is_named(key, meant):
    for row in (
        {"turns": ["a", {"text": "b", key: 0}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", key: False}]},
    ):
        with pytest.raises(RowError, match=rf"\[1\] has the key '{key}'; did you mean '{meant}'\? Rename it"):
            parse_row(row)


def test_other_keys_of_a_message_are_ignored():
    message = {"role": "user", "content": "a", "name": "Jo", "time": 3, "tool_calls": [], "height": 2}
    assert [turn.text for turn in parse_row({"messages": [message]})] == ["a"]


def test_a_turn_may_name_its_role():
    turns = parse_row({"turns": ["a", {"text": "b", "role": "user"}, {"text": "c"}, {"text": "d", "role": "gpt"}]})
    assert [turn.role for turn in turns] == [U, U, U, A]
    with pytest.raises(RowError, match=r"turns\[0\].role is 'bot'; known roles: "):
        parse_row({"turns": [{"text": "a", "role": "bot"}]})
