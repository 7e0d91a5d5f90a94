"""Rows: the forms, flags, roles, references, and an error with its place for everything else."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.sources.cleaning import ReadCounts, clean_dialogues, is_invisible
from dialog_trainer.data.sources.loss_flags import AMBIGUOUS, MAX_WEIGHT, SWITCHES, WEIGHTS
from dialog_trainer.data.sources.parsing import parse_rows
from dialog_trainer.data.sources.row_errors import RowError
from dialog_trainer.data.sources.row_format import RowParser, alternate_roles, parse_row
from dialog_trainer.errors import DataError
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


RANGE = "it should be a number from 0 to 1,000, or true or false"
SYSTEM = "turn 0 gives a loss weight to a turn of the system, which is never trained; leave it out"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "expected an object; found null"),
        (1.5, "expected an object; found a number"),
        ({"text": "a", "id": 1}, "found the keys 'text', 'id'. Name others with data.columns"),
        ({"data": ["a", "b"], "id": "x"}, "data.columns, perhaps 'data.columns={turns: data}'"),
        ({"text": "### Human: a### Assistant: b"}, "data.columns, perhaps 'data.columns={turns: text}'"),
        ({"질문": "a", "Antwort": "b"}, "perhaps \"data.columns={prompt: '질문', completion: Antwort}\""),
        ({"speaker": "Jo", "text": "a"}, "need its id: name its column, 'data.columns={dialogue: ...}'"),
        (
            {"prompt": "a", "completion": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "completion begins with the prompt: 'data.columns={turns: completion}'",
        ),
        (
            {"dialogue_id": 1, "speaker": "Jo", "text": None},
            "is an utterance whose 'text' is empty (null); write it, or remove",
        ),
        ({"messages": None}, "found the keys 'messages' (null)"),
        ({"turns": "Jo: a\nAl: b"}, "'turns' should be a list; found a string: write its turns as ["),
        ({"question": "a", "answer": ["b", "c"]}, "answer is a list of 2 texts, and a turn has one: keep one"),
        ({"id": "x", "mapping": {}, "conversation_id": "x"}, "or a tree ('mapping'); write each path"),
        ({"message_id": "x", "parent_id": None, "text": "a"}, "or a tree ('parent_id'); write each path"),
        (
            {"messages": [{"type": "human", "content": "a"}]},
            "may say who speaks: pass 'data.columns={role: type}', or let",
        ),
        ({"turns": [{"speaker_id": 3, "text": "user"}]}, "[0] has the key 'speaker_id', which may say who speaks"),
        (
            {"messages": [{"author": {"name": "Jo"}, "content": "a"}]},
            "found an object: write the name there, or let the",
        ),
        ({}, "found the keys none"),
        ({"turns": "a"}, "'turns' should be a list; found a string"),
        ({"messages": {}}, "'messages' should be a list; found an object"),
        ({"messages": "['a', 'b']"}, "'messages' is a text that looks like a list but is not JSON"),
        ({"turns": ["a", 3]}, "turns[1] should be a string; found a number"),
        ({"turns": [["a", "b"]]}, "turns[0] should be a string; found a list"),
        ({"turns": [None]}, "turns[0] should be a string; found null"),
        ({"turns": [b"a"]}, "turns[0] should be a string; found bytes"),
        ({"messages": [{"role": "user"}]}, "messages[0] has no text: its keys are 'role'. Name that of the text"),
        (
            {"turns": [{"ask": "a", "say": "b"}]},
            "a question and its answer, 'data.columns={prompt: ..., completion: ...}'",
        ),
        ({"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}, "some of its turns name a role"),
        (
            {"conversations": [{"from": "gpt", "value": {}}]},
            "conversations[0].value should be a string; found an object",
        ),
        ({"conversations": [{"from": "me", "value": ""}]}, "no role is known by the name 'me'"),
        (
            {"messages": [{"role": ["user"], "content": "a"}]},
            "messages[0].role should be the name of a role; found a list",
        ),
        (
            {"turns": ["a", "ab\ud83d"]},
            "turns[1] holds half of a character ('\\ud83d', a lone surrogate) at position 2; write the whole character",
        ),
        ({"turns": [{"text": 3}]}, "turns[0].text should be a string; found a number"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0] is of type 'image_url'",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]},
            "messages[0].tool_calls should be a list of objects",
        ),
        ({"turns": ["a"], "messages": ["b"]}, "has both 'turns' and 'messages'; choose one"),
        (
            {"prompt": "a", "answer": "b", "output": "c"},
            "has 'output' and 'answer', each of which may be the completion",
        ),
        ({"prompt": "a", "completion": 3}, "completion should be a string; found a number"),
        ({"query": "a", "response": "b", "history": [["a"]]}, "history[0] should be a list of two texts; found a list"),
        ({"conversation_id": 1, "text": "a", "parent_id": None}, "is a message of a tree"),
        (
            {"turns": [{"text": "a", "train": True, "loss": 0}]},
            "turns[0] has 'train' and 'loss', which disagree; keep one",
        ),
        ({"messages": [{"role": "system", "content": "s", "weight": 0.5}]}, SYSTEM),
        ({"messages": [{"role": "tool", "content": "s", "train": True}]}, "a turn of tool, which is never trained"),
        ({"turns": ["a", "b"], "weight": "much"}, f"has 'weight': 'much'; {RANGE}"),
    ],
)
def test_a_row_that_is_no_dialogue_is_named(row, reason):
    with pytest.raises(RowError) as error:
        parse_row(row)
    assert reason in str(error.value)


# A value of a flag that is a weight, or a switch, and the weight that it gives; None: it is refused.
FLAG_VALUES = [
    (0, 0.0, 0.0), (1, 1.0, 1.0), (True, 1.0, 1.0), (False, 0.0, 0.0), ("false", 0.0, 0.0), (None, 1.0, 1.0),
    (0.5, 0.5, None), (2, 2.0, None), (MAX_WEIGHT, 1000.0, None), ("0.5", 0.5, None),
    (-1, None, None), (float("nan"), None, None), (float("inf"), None, None), (MAX_WEIGHT + 1, None, None),
    ("much", None, None), ([1], None, None), ({}, None, None),
]  # fmt: skip


@pytest.mark.parametrize("name", [*WEIGHTS, *SWITCHES])
@pytest.mark.parametrize(("value", "weight", "switched"), FLAG_VALUES)
def test_a_flag_is_read_under_each_of_its_names(name, value, weight, switched):
    expected = switched if name in SWITCHES else weight
    item = {"role": "assistant", "content": "b", name: value}
    rows = [
        {"messages": [{"role": "user", "content": "a"}, item]},
        {"turns": ["a", {"text": "b", name: value}]},
        {
            "messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}],
            name: value,
        },
    ]
    for row in rows:
        if expected is None:
            with pytest.raises(RowError, match=rf"has '{name}': .*; it should be"):
                parse_row(row)
        else:
            assert parse_row(row)[1] == Turn(A, "b", expected)


def test_a_flag_of_the_row_multiplies_those_of_its_turns():
    turns = parse_row({"turns": [{"text": "a", "weight": 0.5}, "b"], "loss_weight": 2})
    assert [turn.weight for turn in turns] == [1.0, 2.0]


@pytest.mark.parametrize("key", AMBIGUOUS)
def test_a_flag_that_may_mean_either_is_refused(key):
    for row in ({"turns": ["a", {"text": "b", key: False}]}, {"turns": ["a", "b"], key: True}):
        with pytest.raises(RowError, match=f"has the key '{key}', which does not say plainly"):
            parse_row(row)
    assert len(RowParser({"weight": None}).parse({"turns": ["a", {"text": "b", key: False}]})) == 2


@pytest.mark.parametrize("key", ["chosen", "rejected", "rejected_response", "non_preferred_output", "kto_tag", "label"])
def test_rows_of_preferences_are_refused_by_name(key):
    for row in ({"prompt": "a", "completion": "b"}, {"messages": [{"role": "user", "content": "a"}]}):
        with pytest.raises(RowError, match=f"has the key '{key}': a row of preferences"):
            parse_row(row | {key: True})
    named = RowParser({"prompt": "prompt", "completion": "chosen"}).parse(
        {"prompt": "a", "chosen": "b", "rejected": "c"}
    )
    assert [turn.text for turn in named] == ["a", "b"]


# `data.columns`, a row, and its turns.
FORMS = [
    ({}, {"conversations": [{"from": "human", "value": "a"}], "system": "s", "tools": "[]"}, [(S, "s"), (U, "a")]),
    ({}, {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}], "system_prompt": " s "},
     [(S, "s"), (U, "a")]),
    ({}, {"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "t"}]}, [(S, '[{"name": "t"}]'), (U, "a")]),
    ({}, {"messages": [{"role": "user", "content": None}, {"role": "ASSISTANT ", "content": [{"type": "text", "text": "b"}, "c"]}]},
     [(U, ""), (A, "b\nc")]),
    ({}, {"messages": [{"role": "assistant", "content": "b", "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}, {"function": {"name": "g", "arguments": "?"}}]}]},
     [(A, 'b\n{"name": "f", "arguments": {"x": 1}}\n{"name": "g", "arguments": "?"}')]),
    ({}, {"messages": '[{"role": "user", "content": "a"}]'}, [(U, "a")]),
    ({}, {"messages": ["a", "b"]}, [(U, "a"), (A, "b")]),
    ({}, ["a", "b"], [(U, "a"), (A, "b")]),
    ({}, {"dialog": ["a", "b"], "turns": None}, [(U, "a"), (A, "b")]),
    ({}, {"prompt": "a", "completion": "b"}, [(U, "a"), (A, "b")]),
    ({}, {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
          "completion": [{"role": "assistant", "content": "b"}]}, [(S, "s"), (U, "a"), (A, "b")]),
    ({}, {"instruction": "a", "input": "x", "output": "b", "history": [["p", "q"]], "system": "s"},
     [(S, "s"), (U, "p"), (A, "q"), (U, "a\nx"), (A, "b")]),
    ({}, {"input": "a", "output": "b"}, [(U, "a"), (A, "b")]),
    ({"input": "context"}, {"instruction": "a", "context": "x", "response": "b"}, [(U, "a\nx"), (A, "b")]),
    ({"input": None}, {"instruction": "a", "input": "x", "output": "b"}, [(U, "a"), (A, "b")]),
    ({}, {"Question": "a", "Answer": None}, [(U, "a"), (A, "")]),
    ({}, {"Q": "a", "A": "b", "label": 1}, [(U, "a"), (A, "b")]),
    ({}, {"conversation": [{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d"}]},
     [(U, "a"), (A, "b"), (U, "c"), (A, "d")]),
    ({"prompt": "user_message", "completion": "system_message"},
     {"turns": [{"user_message": "a", "system_message": "b"}]}, [(U, "a"), (A, "b")]),
    ({"turns": "content", "role": "agent"}, {"content": [{"message": "a", "agent": "user"}]}, [(U, "a")]),
    ({"role": None}, {"turns": [{"text": "a", "speaker": "Jo"}, {"text": "b", "speaker": "Jo"}]}, [(U, "a"), (A, "b")]),
    ({"text": "line"}, {"turns": [{"line": "a", "text": "x"}]}, [(U, "a")]),
    ({}, {"system": [{"text": "s"}], "messages": [{"role": "user", "content": [{"text": "a"}]}]}, [(S, "s"), (U, "a")]),
    ({}, {"input": [{"role": "user", "content": "a"}], "output": [{"type": "message", "role": "assistant", "content": "b"}]},
     [(U, "a"), (A, "b")]),
    ({}, {"turns": {"speaker": ["user", "gpt"], "utterance": ["a", "b"]}}, [(U, "a"), (A, "b")]),
    ({"role": "is_bot"}, {"turns": [{"is_bot": False, "text": "a"}, {"is_bot": True, "text": "b"}]}, None),
    ({"turns": "chosen"}, {"chosen": "\n\nHuman: a\nHuman: x\n\nAssistant: b", "rejected": ""}, [(U, " a\nHuman: x"), (A, " b")]),
    ({"turns": "text"}, {"text": "### Human: a### Assistant: b"}, [(U, " a"), (A, " b")]),
    ({}, {"turns": [{"text": "a", "speaker": " "}, {"text": "b", "speaker": ""}]}, [(U, "a"), (A, "b")]),
    ({}, {"chosen_topic": "t", "dialog": [{"speaker": "user", "text": "a"}]}, [(U, "a")]),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "row", "turns"), FORMS)
def test_each_form_gives_its_turns(columns, row, turns):
    parser = RowParser(columns, {"false": "user", "true": "assistant"} if turns is None else None)
    assert [(turn.role, turn.text) for turn in parser.parse(row)] == (turns or [(U, "a"), (A, "b")])


@pytest.mark.parametrize(
    ("name", "label"), [("developer", "developer"), ("tool", "tool"), ("observation", "tool"), ("function", "function")]
)
def test_turns_of_tools_are_context_with_a_label(name, label):
    assert parse_row({"messages": [{"role": name, "content": "a"}]}) == [Turn(S, "a", label=label)]


# `data.roles`, the names of the speakers, and their roles; None for one that is not known.
ROLES = [
    ({}, ["user", "Human", "gpt", "system", "function_call", "Joey"], [U, U, A, S, A, None]),
    ({"agent": "assistant", "Customer": "user"}, ["AGENT", "customer", "user", "Joey"], [A, U, U, None]),
    ({"system": "assistant"}, ["user", "system"], [U, A]),
    ({"user": "assistant", "assistant": "user"}, ["user", "assistant"], [A, U]),
    ({"assistant": "bot"}, ["Anna", "bot", "system", "assistant"], [U, A, S, U]),
    ({"assistant": "Monica"}, ["Joey", "monica", "system", "user"], [U, A, S, U]),
    ({"assistant": ["Monica", "Ross"]}, ["Ross", "Joey", "Monica"], [A, U, A]),
    ({"assistant": "SYSTEM"}, ["USER", "SYSTEM"], [U, A]),
    ({"user": "first_speaker"}, ["Jo", "Al", "Jo", "Ed", "system"], [U, A, U, A, S]),
    ({"assistant": ["agent", "bot"], "user": "customer"}, ["agent", "customer", "bot", "Joey"], [A, U, A, None]),
    ({"assistant": "first_speaker"}, ["system", "Jo", "Al"], [S, A, U]),
]


@pytest.mark.parametrize(("roles", "names", "expected"), ROLES)
def test_names_get_their_roles(roles, names, expected):
    rows = [{"messages": [{"role": name, "content": "a"} for name in names]}]
    parser = RowParser(roles=roles)
    if None not in expected:
        assert [turn.role for turn in parser.parse(rows[0])] == expected
        return
    known = [name for name, role in zip(names, expected, strict=True) if role is not None]
    assert [
        turn.role for turn in RowParser(roles=roles).parse({"messages": [{"role": n, "content": "a"} for n in known]})
    ] == [role for role in expected if role is not None]
    with pytest.raises(RowError, match="no role is known by the name 'Joey'"):
        parser.parse(rows[0])


@pytest.mark.parametrize(
    ("roles", "error"),
    [
        ({"agent": "supporter"}, "agent: supporter is no role; the roles are system, user, assistant and tool"),
        ({"assistant": "first_speaker", "user": "customer"}, "first_speaker goes with one role"),
    ],
)
def test_a_value_of_roles_that_names_no_role_is_refused(roles, error):
    with pytest.raises(DataError, match=f"data.roles: {error}"):
        RowParser(roles=roles)


ITEMS = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "tool", "Human", "nobody"]),
        "content": st.sampled_from(["a", "한", "", None, ["b"], 3]),
    },
    optional={"weight": st.sampled_from([0, None, "x"]), "name": st.just("n")},
)


@settings(deadline=None)
@given(st.lists(ITEMS | st.just({"role": "user", "content": "a"}), max_size=4))
def test_the_fast_way_of_plain_lists_gives_the_same(items):
    def outcome(parser):
        try:
            return parser.parse({"messages": items})
        except RowError as error:
            return str(error)

    warm = RowParser()
    warm.parse({"messages": [{"role": "user", "content": "a"}]})
    assert outcome(warm) == outcome(RowParser())


def split_of(rows, **mappings):
    parser = RowParser(**mappings)
    return list(parse_rows(((str(n), f"own.jsonl:{n}", row) for n, row in enumerate(rows, start=1)), parser)), parser


def test_unknown_roles_are_counted_over_the_split():
    rows = [{"messages": [{"role": "user", "content": "a"}]}] * 20
    rows += [{"messages": [{"role": name, "content": "a"} for name in ("Joey", "Ross", "Joey")]}] * 30
    with pytest.raises(DataError, match=r"own.jsonl:21: these roles are not known: 'Joey' \(60 turns\), 'Ross' \(30 turns\). "
                       r"Say who the assistant is: 'data.roles=\{assistant: Joey\}'"):  # fmt: skip
        split_of(rows)


# Names of speakers, and what the message advises; all of it can be typed.
ADVICE = [
    (["Joey", "Ross"], r"Say who the assistant is: 'data.roles=\{assistant: Joey\}' .* the role of each name: 'data.roles=\{Joey: assistant, "),
    (["0", "1"], r"Say who the assistant is: \"data.roles=\{assistant: '0'\}\" \(all others are then the user\); or that whoever speaks"),
    (["지민", "user"], r"Say who the assistant is: \"data.roles=\{assistant: '지민'\}\" "),
    (["bert", "bot"], r"Say the role of each name: 'data.roles=\{bert: user, ...\}'; or that whoever speaks first is the user"),
    (["human", "gpt", "bing"], r"Say the role of each name: 'data.roles=\{bing: assistant, ...\}'; or that"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "advice"), ADVICE)
def test_the_advice_on_unknown_roles_fits_their_names(names, advice):
    with pytest.raises(DataError, match=advice):
        split_of([{"messages": [{"role": name, "content": "a"} for name in names]}])


def test_no_dialogue_follows_an_error():
    rows = iter([{"turns": ["a", "b"]}, {"turns": 3}, {"turns": ["c", "d"]}])
    dialogues = parse_rows(((str(n), "own", row) for n, row in enumerate(rows)), RowParser())
    assert next(dialogues)[0] == "0"
    with pytest.raises(DataError, match="own: 'turns' should be a list"):
        next(dialogues)


def test_keys_that_are_not_read_are_counted():
    rows = [{"turns": [{"text": "a", "mood": 1}, {"text": "b", "mood": None}], "id": 7}] * 3
    rows += [{"prompt": "a", "completion": "b", "id": 1, "source": "x"}]
    assert split_of(rows)[1].unread() == {"id": 4, "turns[].mood": 3, "source": 1}


# Keys of the rows of a dialogue besides its id, speaker and text, and what is wrong with their order.
ORDERS = [
    ([{"turn_id": 1}, {"turn_id": 2}, {"turn_id": 2}], None), ([{"Turn_ID": "9"}, {"Turn_ID": "10"}], None), ([{"id": 9, "turn": 1}, {"id": 3, "turn": 0}], None),
    ([{"utterance_idx": 2}, {"utterance_idx": 1}], "'utterance_idx' goes from 2 to 1; sort the rows of each dialogue by it"),
    ([{"index": "10"}, {"index": None}, {"index": "9"}], None), ([{"turn_id": 1.5}, {"turn_id": 0.5}], "goes from 1.5 to 0.5"),
    ([{"id": "a", "reply-to": None}, {"id": "b", "reply-to": "a"}], None), ([{"reply_to": "x"}, {"reply_to": "y"}], None),
    ([{"id": "b", "reply-to": "a"}, {"id": "a", "reply-to": None}], "answers 'a' ('reply-to'), which is not the utterance before it"),
    ([{"id": "a"}, {"id": "b"}, {"id": "c", "reply_to": "a"}], "answers 'a' ('reply_to')"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "error"), ORDERS)
def test_utterances_that_are_out_of_order_are_refused(keys, error):
    rows = [{"dialogue_id": 7, "speaker": "user", "text": "a", **more} for more in keys]
    if error is None:
        assert len(split_of(rows)[0][0][1]) == len(rows)
        return
    with pytest.raises(DataError) as raised:
        split_of(rows)
    assert error in str(raised.value)


UTTERANCES = [
    {"Dialogue_ID": d, "Speaker": s, "Utterance": t, "Emotion": "joy"}
    for d, s, t in ((0, "Joey", "a"), (0, "Monica", "b"), (1, "Monica", "c"), (1, "Joey", "d"), (1, "Joey", "e"))
]


def test_rows_of_utterances_are_joined_by_their_dialogue():
    dialogues, parser = split_of(UTTERANCES, roles={"assistant": "Monica"})
    assert dialogues == [("1", [Turn(U, "a"), Turn(A, "b")]), ("3", [Turn(A, "c"), Turn(U, "d"), Turn(U, "e")])]
    assert parser.unread() == {"Emotion": 5}
    with pytest.raises(
        DataError, match=r"own\.jsonl:6: dialogue '0' is in more than one place; sort the rows by dialogue"
    ):
        split_of([*UTTERANCES, UTTERANCES[0]], roles={"assistant": "Monica"})


@pytest.mark.parametrize(
    ("columns", "row", "reason"),
    [
        ({"turns": "utterence"}, {"utterance": ["a"]}, "data.columns.turns: there is no key 'utterence'; did you mean 'utterance'?"),
        ({"text": "line"}, {"turns": [{"text": "a"}]}, r"turns\[0\] data.columns.text: there is no key 'line'; The keys are 'text'"),
        ({"prompt": "ask", "completion": "say"}, {"ask": "a", "sai": "b"}, "completion: there is no key 'say'; did you mean 'sai'?"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_there_is_named(columns, row, reason):
    with pytest.raises(RowError, match=reason):
        RowParser(columns).parse(row)


@pytest.mark.parametrize(
    "text", ["", " ", "\u3000", "\u200b", "\u2060\u200d\ufeff", "\ufe0f", "\xad", "\u3164", "\u2800", "\x07\n"]
)
def test_an_invisible_turn_is_empty(text):
    counts = ReadCounts()
    assert list(clean_dialogues([("0", [Turn(U, "a"), Turn(A, text), Turn(U, f"b{text}c")])], counts)) != []
    assert (counts.empty_turns, counts.turns_by_role) == (1, {"user": 2})


@settings(deadline=None)
@given(st.text(min_size=1, max_size=3))
def test_a_text_with_a_letter_is_visible(text):
    assert is_invisible(text) == (not re.search(r"\S", "".join(c for c in text if not is_invisible(c))))
    assert not is_invisible(f"{text}a{text}")


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
    assert counts == ReadCounts(2, 4, 2, 2, {"user": 3, "assistant": 1})
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
    [
        ("wieght", "weight"),
        ("Weight", "weight"),
        ("weights", "weight"),
        ("Train", "train"),
        ("trian", "train"),
        ("lossWeight", "loss_weight"),
        ("loss-mask", "loss_mask"),
    ],
)
def test_a_misspelt_mask_key_is_named(key, meant):
    for row in (
        {"turns": ["a", {"text": "b", key: 0}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", key: False}]},
    ):
        with pytest.raises(RowError, match=rf"\[1\] has the key '{key}'; did you mean '{meant}'\? Rename it"):
            parse_row(row)


def test_a_turn_may_name_its_role():
    turns = parse_row({"turns": ["a", {"text": "b", "role": "user"}, {"text": "c"}, {"text": "d", "role": "gpt"}]})
    assert [turn.role for turn in turns] == [U, U, U, A]
