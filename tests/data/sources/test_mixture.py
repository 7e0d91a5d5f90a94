"""Several data sets in one run: weights, splits, counts, and what identifies them."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sources import Files, Mixture
from dialog_trainer.errors import DataError
from dialog_trainer.types import Role


def write(path, name, count):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"turns": [f"Hello {name} {number} .", "Hi ."], "topic": "x"} for number in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def sources(tmp_path):
    """A file, and a folder with all three splits."""
    for split, count in (("train", 10), ("validation", 3), ("test", 2)):
        write(tmp_path / f"b/{split}.jsonl", f"b {split}", count)
    return [write(tmp_path / "a.jsonl", "a", 40), str(tmp_path / "b")]


def first_turns(source, split):
    return Counter(turns[0].text for _, turns in source.dialogues(split))


def test_each_source_gives_what_it_gives_alone_as_often_as_it_weighs(sources):
    mixture = Mixture(sources, [1, 3])
    alone = [Files(place, None, None, 0.05) for place in sources]
    a, b = (first_turns(one, "train") for one in alone)
    assert first_turns(mixture, "train") == a + b + b + b
    for split in ("validation", "test"):
        held_out = [one for one in alone if split == "validation" or one is alone[1]]
        assert first_turns(mixture, split) == sum((first_turns(one, split) for one in held_out), Counter())
    identifiers = [identifier for identifier, _ in mixture.dialogues("train")]
    assert len(set(identifiers)) == len(identifiers)
    assert (identifiers[0].split(":")[0], identifiers[-1]) == ("a.jsonl", "b:10 copy 3")


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 4))
def test_a_part_of_a_weight_takes_that_part_of_the_dialogues(tmp_path_factory, weight):
    place = write(tmp_path_factory.mktemp("whole") / "a.jsonl", "a", 400)
    taken = first_turns(Mixture([place], [weight], validation_share=1e-9), "train")
    assert {*taken.values()} <= {math.floor(weight), math.ceil(weight)}
    assert taken.total() == pytest.approx(400 * weight, abs=5 * math.sqrt(400) / 2)


def test_the_digest_knows_weights_and_content(sources):
    digests = [Mixture(sources, weights).digest("train") for weights in (None, [1, 1], [1, 2], [2, 1])]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert Mixture(sources, [1, 2]).digest("test") == Mixture(sources).digest("test")
    write(Path(sources[0]), "c", 40)
    assert Mixture(sources).digest("train") != digests[0]


def test_counts_of_each_source_are_said_and_kept(sources, tmp_path):
    for _ in range(2):  # read, and then from the cache
        lines = []
        dialogues = open_dialogues(Mixture(sources, [1, 2]), "train", tmp_path / "cache", lines.append)
        given = first_turns(Files(sources[0], None, None, 0.05), "train").total()
        assert dialogues.counts.by_source == {"a.jsonl": given, "b": 20}
        assert dialogues.counts.unread == {"topic": 50}
        assert (
            f"(a.jsonl {given}, b 20) from {sources[0]} without the 0.05 that is held out; {sources[1]}/" in lines[-1]
        )
        assert lines[-1].endswith(", 2 times")


def test_a_source_too_small_to_hold_out_of_adds_nothing(sources, tmp_path):
    tiny = write(tmp_path / "tiny.jsonl", "tiny", 1)
    with pytest.raises(DataError, match="has no dialogue"):
        first_turns(Files(tiny, None, None, 0.05), "validation")
    assert first_turns(Mixture([tiny, sources[1]]), "validation").total() == 3


def test_a_split_that_no_source_has_is_an_error(sources):
    with pytest.raises(DataError, match=r"no source has a test split: a\.jsonl"):
        first_turns(Mixture(sources[:1]), "test")


def test_sources_of_the_same_name_keep_their_places(sources, tmp_path):
    other = write(tmp_path / "other/a.jsonl", "other", 2)
    assert Mixture([sources[0], other]).names == [sources[0], other]


PEOPLE = ["Guest", "Monica"]


@pytest.fixture
def people(sources, tmp_path):
    """A source without roles, and one whose speakers have names."""
    rows = [{"turns": [{"role": name, "text": f"{name} {number} ."} for name in PEOPLE]} for number in range(30)]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [sources[0], str(tmp_path / "people.jsonl")]


@pytest.mark.parametrize(
    "roles", [{"assistant": "Monica"}, {"Guest": "user", "Monica": "assistant"}, {"user": "first_speaker"}]
)
def test_names_of_roles_are_for_the_sources_that_have_them(people, roles):
    for split in ("train", "validation"):
        dialogues = [[turn.role for turn in turns] for _, turns in Mixture(people, roles=roles).dialogues(split)]
        assert dialogues
        assert all(roles == [Role.USER, Role.ASSISTANT] for roles in dialogues)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"roles": {"assistant": "Monika"}}, "people.jsonl: data.roles names Monika; the data have 'guest' .*'monica' .*; did you mean monica"),
        ({"roles": {"Monika": "assistant", "Guest": "user"}}, "these roles are not known: 'Monica'"),
        ({"roles": {"Monika": "assistant", "Gast": "user"}}, "these roles are not known: 'Guest'"),
        ({"columns": {"weight": "w"}, "roles": {"assistant": "Monica"}}, "no source has what is mapped: data.columns.weight: no row has the key 'w'"),
        ({"columns": {"turns": "turn"}}, "a.jsonl:1: data.columns.turns: there is no key 'turn'"),
    ],
)  # fmt: skip
def test_what_no_source_has_is_an_error(people, options, error):
    with pytest.raises(DataError, match=error):
        list(Mixture(people, **options).dialogues("train"))


def test_a_person_of_one_source_makes_no_assistant_of_another_a_user(people, tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"chat\.jsonl: data\.roles names Monica; .*say the role of each name"):
        list(Mixture([people[1], str(tmp_path / "chat.jsonl")], roles={"assistant": "Monica"}).dialogues("train"))
    whole = Mixture([people[1], str(tmp_path / "chat.jsonl")], roles={"Guest": "user", "Monica": "assistant"})
    assert {turns[1].role for _, turns in whole.dialogues("train")} == {Role.ASSISTANT}


def test_a_source_that_cannot_be_read_is_not_taken_for_one_without_the_split(sources, monkeypatch):
    mixture = Mixture(sources)

    def fail(split):
        raise DataError("owner/name could not be loaded")

    monkeypatch.setattr(mixture.parts[0], "describe", fail)
    for split in ("train", "validation", "test"):
        with pytest.raises(DataError, match="could not be loaded"):
            first_turns(mixture, split)


def test_counts_are_of_the_split_that_was_read_last(sources):
    mixture = Mixture(sources)
    for split, count in (("train", 50), ("test", 2)):  # all rows of a file, of which some are held out
        first_turns(mixture, split)
        assert mixture.unread() == {"topic": count}
    assert mixture.by_position == 2
