"""Which contexts get replies, and the replies."""

from itertools import chain
from types import SimpleNamespace

import pytest
from helpers.progress import RecordingProgress
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.evaluation.contexts import build_contexts, sample_dialogues
from dialog_trainer.evaluation.protocols import ReplySettings, generate_replies
from dialog_trainer.model.generation.generate import generate
from dialog_trainer.model.generation.sampling import GREEDY
from dialog_trainer.types import Dialogue, Role, Turn

USER, ASSISTANT, SYSTEM = Role.USER, Role.ASSISTANT, Role.SYSTEM


def dialogue(*roles: Role, text: str = "words") -> Dialogue:
    return Dialogue("d", tuple(Turn(role, f"{text} {index}") for index, role in enumerate(roles)))


def reply_settings(max_new_tokens: int, batch_tokens: int) -> ReplySettings:
    return ReplySettings(ASSISTANT, max_new_tokens, 64, batch_tokens)


def table_of(identifiers) -> SimpleNamespace:
    """As much of a `DialogueDataset` as sampling reads."""

    class Table(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.rows.column("id"))

    return Table(rows=SimpleNamespace(column={"id": list(identifiers)}.get))


@pytest.mark.parametrize(
    ("role", "roles", "expected"),
    [
        (ASSISTANT, (USER, ASSISTANT), [1]),
        (ASSISTANT, (USER, ASSISTANT, USER, ASSISTANT, USER), [1, 3]),
        (ASSISTANT, (ASSISTANT, USER, ASSISTANT), [2]),
        (ASSISTANT, (SYSTEM, USER, ASSISTANT), [2]),
        (ASSISTANT, (USER, ASSISTANT, ASSISTANT), [1, 2]),
        (ASSISTANT, (USER, USER), []),
        (ASSISTANT, (ASSISTANT, USER), []),
        (USER, (USER, ASSISTANT), []),
        (USER, (USER, ASSISTANT, USER, ASSISTANT, USER), [2, 4]),
        (USER, (ASSISTANT, USER, ASSISTANT), [1]),
        (USER, (SYSTEM, USER, ASSISTANT), [1]),
        (USER, (USER, USER, ASSISTANT, USER), [1, 3]),
        (USER, (ASSISTANT, ASSISTANT), []),
    ],
)
def test_contexts_of_a_role(tokenizer, role, roles, expected):
    material = dialogue(*roles)
    contexts = build_contexts(material, tokenizer, max_tokens=500, roles=[role])
    assert [context.turn_index for context in contexts] == expected
    for context in contexts:
        texts = [turn.text for turn in material.turns]
        assert context.history == tuple(texts[: context.turn_index])
        assert context.reference == texts[context.turn_index]
        assert context.dialogue_id == "d"
        turns = [[*ids, tokenizer.special_tokens.separator] for ids in tokenizer.encode_batch(list(context.history))]
        assert context.ids == [tokenizer.special_tokens.start, *chain.from_iterable(turns)]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 80), st.integers(2, 9), st.integers(1, 12))
def test_a_context_fits_and_loses_whole_turns_from_the_left(tokenizer, room, turns, words):
    material = dialogue(*([USER, ASSISTANT] * 5)[:turns], text=" ".join(["sea"] * words))
    for context in build_contexts(material, tokenizer, room, [ASSISTANT]):
        assert len(context.ids) <= room
        assert context.ids[0] == tokenizer.special_tokens.start
        assert context.ids[-1] == tokenizer.special_tokens.separator
        whole = [[*ids, tokenizer.special_tokens.separator] for ids in tokenizer.encode_batch(list(context.history))]
        suffixes = [list(chain.from_iterable(whole[start:])) for start in range(0, context.turn_index, 2)]
        fitting = [suffix for suffix in suffixes if len(suffix) < room]
        expected = fitting[0] if fitting else whole[-1][-(room - 1) :]
        assert context.ids[1:] == expected


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text(max_size=6), min_size=1, max_size=40), st.data())
def test_a_smaller_sample_is_a_subset_of_a_larger(identifiers, data):
    ordered = sorted(identifiers)
    shuffled = data.draw(st.permutations(ordered))
    smaller, larger = sorted(data.draw(st.tuples(st.integers(0, 45), st.integers(0, 45))))

    def names(order: list[str], count: int) -> set[str]:
        indices = sample_dialogues(table_of(order), count)
        assert indices == sorted(set(indices))
        return {order[index] for index in indices}

    assert len(names(ordered, smaller)) == min(smaller, len(ordered))
    assert names(ordered, smaller) <= names(ordered, larger)
    assert names(ordered, smaller) == names(shuffled, smaller)


def test_a_sample_is_not_the_first_dialogues():
    table = table_of(f"dialogue {index}" for index in range(200))
    assert sample_dialogues(table, None) == list(range(200))
    half = sample_dialogues(table, 100)
    assert half != list(range(100))
    assert 30 < sum(index < 100 for index in half) < 70


def test_replies_keep_the_order_of_their_contexts(tiny_model, tokenizer, dialogue_turns):
    """The contexts differ in length, so that they are not decoded in this order."""
    material = [
        dialogue(USER, ASSISTANT, text=turns[0] * (1 + index % 3)) for index, turns in enumerate(dialogue_turns[:8])
    ]
    contexts = [
        context for one in material for context in build_contexts(one, tokenizer, max_tokens=50, roles=[ASSISTANT])
    ]
    lengths = [len(context.ids) for context in contexts]
    assert lengths != sorted(lengths, reverse=True)
    progress = RecordingProgress()
    replies = generate_replies(contexts, tiny_model, tokenizer, reply_settings(6, 120), progress)
    assert sum(progress.counts) == len(contexts)
    assert len({reply.text for reply in replies}) > 1
    for context, reply in zip(contexts, replies, strict=True):
        ((_, ids, ended),) = generate(
            tiny_model, tokenizer, [context.ids], decoding=GREEDY, seeds=[0], max_new_tokens=6, batch_tokens=1
        )
        assert reply.text == tokenizer.decode(ids).strip()
        assert (reply.ended, reply.reference, reply.history) == (ended, context.reference, context.history)
        assert (reply.dialogue_id, reply.turn_index) == (context.dialogue_id, context.turn_index)


def test_replies_of_the_user(tiny_model, tokenizer):
    contexts = build_contexts(dialogue(USER, ASSISTANT, USER, ASSISTANT, USER), tokenizer, max_tokens=60, roles=[USER])
    replies = generate_replies(contexts, tiny_model, tokenizer, reply_settings(4, 200))
    assert [(reply.turn_index, reply.reference) for reply in replies] == [(2, "words 2"), (4, "words 4")]
    assert [reply.history for reply in replies] == [
        ("words 0", "words 1"),
        ("words 0", "words 1", "words 2", "words 3"),
    ]
    alone = [generate_replies([one], tiny_model, tokenizer, reply_settings(4, 1))[0] for one in contexts]
    assert replies == alone


def test_a_stop_gives_no_replies(tiny_model, tokenizer):
    contexts = build_contexts(dialogue(USER, ASSISTANT, USER, ASSISTANT), tokenizer, max_tokens=50, roles=[ASSISTANT])
    progress = RecordingProgress(stop=lambda progress: len(progress.counts) == 1)
    assert generate_replies(contexts, tiny_model, tokenizer, reply_settings(4, 1), progress) is None
    assert progress.counts == [1]
