"""Baselines: by hand on six dialogues, against slow references, and by their properties."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from dialog_trainer.errors import DataError
from dialog_trainer.evaluation import baselines
from dialog_trainer.evaluation.baselines import BASELINES, drop_human_reference, make_baselines
from dialog_trainer.metrics.tokenize import split_words
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import Context, Dialogue, Reply, Role, Turn

USER, ASSISTANT, SYSTEM = Role.USER, Role.ASSISTANT, Role.SYSTEM


def dialogue(identifier: str, *texts: str, roles: tuple[Role, ...] = (USER, ASSISTANT)) -> Dialogue:
    """Turns of `roles` over and over."""
    return Dialogue(identifier, tuple(Turn(roles[place % len(roles)], text) for place, text in enumerate(texts)))


SIX = (
    dialogue("1", "good morning", "hello", "do you like tea ?", "green tea", "why ?", "it is warm"),
    dialogue("2", "good evening", "hello", "where is the cat ?", "in the garden", "thank you"),
    dialogue("3", "have you seen the cat ?", "green tea", "thank you"),
    dialogue("4", "be kind", "the sea is cold", "so is the wind", roles=(SYSTEM, USER, ASSISTANT)),
    dialogue("5", "may i help ?", "a hat please", "here it is", "thanks", roles=(ASSISTANT, USER)),
    dialogue("6", "the wind is cold", "take a hat"),
)


def context(*history: str, reference: str = "gold", references: tuple[str, ...] = (), identifier: str = "c") -> Context:
    return Context(identifier, len(history), [], history, reference, references)


def texts(name: str, contexts: list[Context], roles: list[Role], training=SIX) -> list[str]:
    return [reply.text for reply in make_baselines([name], contexts, roles, training)[name]]


def test_a_baseline_reply_keeps_its_context():
    asked = [context("a", "b", references=("x", "y"), identifier=str(place)) for place in range(3)]
    made = make_baselines(iter(BASELINES), asked, [ASSISTANT] * 3, SIX)
    assert list(made) == ["echo", "gold", "human", "frequent", "random", "nearest"]
    for name, replies in made.items():
        for reply, its_context in zip(replies, asked, strict=True):
            assert (reply.dialogue_id, reply.turn_index) == (its_context.dialogue_id, its_context.turn_index)
            assert (reply.history, reply.reference) == (its_context.history, its_context.reference)
            assert reply.ended is True
            assert name == "human" or reply.references == its_context.references


def test_echo_and_gold():
    asked = [context("a", "b", reference="c"), context("d", reference="e")]
    assert texts("echo", asked, [USER, ASSISTANT]) == ["b", "d"]
    assert texts("gold", asked, [USER, ASSISTANT]) == ["c", "e"]


def test_gold_scores_the_maximum_against_one_reference():
    asked = [context("a", reference=text) for text in ("Yes .", "I don ' t know , do you ?", "No")]
    replies = make_baselines(["gold"], asked, [ASSISTANT] * 3, ())["gold"]
    references = [[target for reply in replies for target in reply.accepted_texts()]]
    assert BLEU(force=True).corpus_score([reply.text for reply in replies], references).score == pytest.approx(100)


@pytest.mark.parametrize(
    ("role", "training", "expected"),
    [
        # "hello" and "green tea" twice each; "hello" came first. "thank you" is said by users, twice as a reply.
        (ASSISTANT, SIX, "hello"),
        (USER, SIX, "thank you"),
        (ASSISTANT, SIX[::-1], "green tea"),
        (ASSISTANT, SIX[1:3], "hello"),
        (ASSISTANT, SIX[4:], "here it is"),  # its opening is no reply
        (USER, SIX[3:5], "the sea is cold"),  # a first turn after the system's is one
    ],
)
def test_frequent(role, training, expected):
    assert texts("frequent", [context("x"), context("y", "z")], [role] * 2, training) == [expected] * 2


def test_random_is_chosen_by_a_hash():
    said = {ASSISTANT: ["hello", "green tea", "it is warm", "hello", "in the garden", "green tea", "so is the wind"]}
    said[ASSISTANT] += ["here it is", "take a hat"]
    said[USER] = ["do you like tea ?", "why ?", "where is the cat ?", "thank you", "thank you", "the sea is cold"]
    said[USER] += ["a hat please", "thanks"]
    asked = [context(*["x"] * (1 + place % 3), identifier=str(place // 3)) for place in range(300)]
    for role, replies in said.items():
        found = texts("random", asked, [role] * 300)
        assert found == [replies[derive_seed("random", str(p // 3), 1 + p % 3) % len(replies)] for p in range(300)]
        assert set(found) == set(replies)


@pytest.mark.parametrize(
    ("role", "history", "expected"),
    [
        (ASSISTANT, ("good evening",), "hello"),
        (ASSISTANT, ("where is the cat ?",), "in the garden"),
        # Two words that are found nowhere else ("have", "seen") weigh more than one.
        (ASSISTANT, ("have you seen where it is ?",), "green tea"),
        # The last two turns count, not the one before.
        (ASSISTANT, ("where is the cat ?", "green tea", "why ?"), "it is warm"),
        (ASSISTANT, ("the wind is cold", "sea ?", "why ?"), "it is warm"),
        # The words count, not their order, their case or what is unknown.
        (ASSISTANT, ("Morning , unheard-of GOOD",), "hello"),
        (USER, ("the cat", "in the garden"), "thank you"),
        (USER, ("be very kind",), "the sea is cold"),
        (USER, ("the sea", "so is the wind"), "thank you"),
        # Nothing in common: the first of all.
        (ASSISTANT, ("nothing",), "hello"),
        (USER, ("nothing",), "do you like tea ?"),
    ],
)
def test_nearest_by_hand(role, history, expected):
    assert texts("nearest", [context(*history)], [role]) == [expected]


def test_the_first_of_equally_near_replies():
    training = [dialogue(str(place), "b a a", f"reply {place}") for place in range(4)]
    training.insert(2, dialogue("nearer", "a a a b", "nearer"))
    assert texts("nearest", [context("a b a")], [ASSISTANT], training) == ["reply 0"]
    assert texts("nearest", [context("a b a")], [ASSISTANT], training[::-1]) == ["reply 3"]
    assert texts("nearest", [context("a a b a")], [ASSISTANT], training) == ["nearer"]


def test_histories_without_words():
    empty = dialogue("1", "<skipped>", "a reply")  # mteval's mark of an untranslated segment is no word
    assert texts("nearest", [context("a"), context("<skipped>")], [ASSISTANT] * 2, [empty]) == ["a reply"] * 2
    assert texts("nearest", [context("a")], [ASSISTANT], [empty, dialogue("2", "a", "b"), empty]) == ["b"]


def cosines(query: list[str], documents: list[list[str]]) -> list[float]:
    """Of TF-IDF vectors, word by word."""
    bags = [Counter(document) for document in documents]
    idf = {w: math.log(len(bags) / sum(w in bag for bag in bags)) + 1 for bag in bags for w in bag}

    def vector(bag):
        return {word: count * idf[word] for word, count in bag.items() if word in idf}

    def length(of):
        return math.sqrt(sum(value**2 for value in of.values())) or 1.0

    one = vector(Counter(query))
    others = [vector(bag) for bag in bags]
    return [sum(one.get(w, 0) * v for w, v in other.items()) / length(one) / length(other) for other in others]


SENTENCES = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), min_size=1, max_size=6).map(" ".join)


@given(
    st.lists(st.lists(SENTENCES, min_size=1, max_size=4), min_size=1, max_size=8),
    st.lists(SENTENCES, min_size=1, max_size=4),
    st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(deadline=None, max_examples=150)
def test_nearest_is_the_first_of_the_highest_cosine(histories, history, dense_fraction):
    training = [
        Dialogue(str(place), (*(Turn(USER, text) for text in before), Turn(ASSISTANT, f"reply {place}")))
        for place, before in enumerate(histories)
    ]
    bags = [[word for text in before[-2:] for word in split_words(text)] for before in histories]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "DENSE_FRACTION", dense_fraction)
        [text] = texts("nearest", [context(*history)], [ASSISTANT], training)
    place = int(text.removeprefix("reply "))
    values = cosines([word for text in history[-2:] for word in split_words(text)], bags)
    assert values[place] >= max(values) - 1e-12
    assert not any(Counter(bag) == Counter(bags[place]) for bag in bags[:place])


def test_replies_do_not_depend_on_each_other():
    asked = [context(*SIX[place].turns[0].text.split(), identifier=str(place)) for place in range(6)]
    roles = [ASSISTANT, USER, USER, ASSISTANT, USER, ASSISTANT]
    names = ["echo", "frequent", "random", "nearest", "gold"]
    together = make_baselines(names, asked, roles, iter(SIX))
    turned = make_baselines(names, asked[::-1], roles[::-1], list(SIX))
    for name in names:
        assert turned[name] == together[name][::-1]
        alone = [make_baselines([name], [asked[place]], [roles[place]], SIX)[name] for place in range(6)]
        assert together[name] == [reply for [reply] in alone]


def test_training_is_read_only_where_it_is_needed():
    def unread():
        raise AssertionError("read")
        yield

    asked = [context("a", references=("x", "y"))]
    assert list(make_baselines(["echo", "gold", "human"], asked, [ASSISTANT], unread())) == ["echo", "gold", "human"]


@pytest.mark.parametrize("name", ["frequent", "random", "nearest"])
@pytest.mark.parametrize(
    ("training", "role", "named"),
    [((), USER, "user"), ((), ASSISTANT, "assistant"), (SIX[5:], USER, "user"), (SIX[3:4], SYSTEM, "system")],
)
def test_a_training_split_without_replies_is_named(name, training, role, named):
    with pytest.raises(DataError, match=rf"needs replies of the {named} in the training split, which has none"):
        make_baselines([name], [context("a")], [role], training)


def test_no_context_has_no_replies():
    assert make_baselines(["echo", "nearest"], [], [], ()) == {"echo": [], "nearest": []}


def test_a_large_training_split_is_sampled_by_ids(monkeypatch):
    training = [dialogue(str(place), "a", f"reply {place}") for place in range(50)]
    monkeypatch.setattr(baselines, "MAX_TRAINING_DIALOGUES", 5)
    asked = [context("a", identifier=str(place)) for place in range(100)]
    drawn = set(texts("random", asked, [ASSISTANT] * 100, training))
    assert len(drawn) == 5
    assert drawn == set(texts("random", asked, [ASSISTANT] * 100, training[::-1]))
    first = min(drawn, key=lambda text: int(text.removeprefix("reply ")))
    assert texts("frequent", asked[:1], [ASSISTANT], training) == [first]
    assert first != "reply 0" or drawn != {f"reply {place}" for place in range(5)}


def test_human_takes_one_reference_and_leaves_the_others():
    asked = [context("a", references=tuple("pqrst"), identifier=str(place)) for place in range(200)]
    replies = make_baselines(["human"], asked, [ASSISTANT] * 200, ())["human"]
    taken = Counter(reply.text for reply in replies)
    assert set(taken) == set("pqrst")
    assert min(taken.values()) > 20
    for reply in replies:
        assert reply.references == tuple(letter for letter in "pqrst" if letter != reply.text)
        assert "pqrst"[derive_seed("human", reply.dialogue_id, 1) % 5] == reply.text


def test_equal_references_leave_one():
    [reply] = make_baselines(["human"], [context("a", references=("p", "p"))], [ASSISTANT], ())["human"]
    assert (reply.text, reply.references) == ("p", ("p",))


def test_drop_human_reference_leaves_humans_references():
    asked = [context("a", references=tuple("pqrst"), identifier=str(place)) for place in range(20)]
    made = make_baselines(["human", "echo"], asked, [ASSISTANT] * 20, ())
    model = [
        Reply(its.dialogue_id, its.turn_index, its.history, its.reference, "text", False, its.references)
        for its in asked
    ]
    others = drop_human_reference(model)
    assert [reply.accepted_texts() for reply in others] == [reply.accepted_texts() for reply in made["human"]]
    assert {(reply.text, reply.ended, reply.reference) for reply in others} == {("text", False, "gold")}
    assert [reply.accepted_texts() for reply in made["echo"]] == [tuple("pqrst")] * 20


@pytest.mark.parametrize("references", [(), ("p",)])
def test_too_few_references_for_human_are_named(references):
    asked = [context("a", references=("p", "q")), context("a", "b", references=references, identifier="7")]
    message = rf"at least two references for each context; turn 2 of dialogue 7 has {len(references)}"
    with pytest.raises(DataError, match=message):
        make_baselines(["human"], asked, [ASSISTANT] * 2, ())
    with pytest.raises(DataError, match=message):
        drop_human_reference([SimpleNamespace(dialogue_id="7", turn_index=2, references=references)])
