"""Rollouts of many dialogues against one dialogue at a time, with made-up replies."""

import pytest
from helpers.progress import RecordingProgress
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.evaluation.progress import SILENT
from dialog_trainer.evaluation.rollout import roll_out
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import Context, Dialogue, Reply, Role, Turn

S, U, A = Role.SYSTEM, Role.USER, Role.ASSISTANT
ROOM = 40
# The last takes most of the room.
SAID = ("", "yes", "the sea", "I heard that my brother needs green tea , and cold weather , and long walks .")


def dialogue(identifier: str, *roles: Role) -> Dialogue:
    return Dialogue(
        identifier,
        tuple(Turn(role, f"turn {place}", references=(f"reference {place}",)) for place, role in enumerate(roles)),
    )


def made_up(context: Context) -> Reply:
    """A reply that depends on all of its context."""
    said = SAID[derive_seed(context.dialogue_id, context.turn_index, *context.ids) % len(SAID)]
    return Reply(
        context.dialogue_id,
        context.turn_index,
        context.history,
        context.reference,
        said,
        bool(said),
        context.references,
    )


def played(source: Dialogue, tokenizer, room: int = ROOM) -> list[Reply]:
    """One dialogue alone, its contexts written out turn by turn."""
    roles = [turn.role for turn in source.turns]
    start = roles.index(U) + 1 if U in roles else 1
    said = [turn.text for turn in source.turns[:start]]
    replies = []
    for place in range(start, len(roles)):
        gold = source.turns[place]
        if gold.role == S:
            said.append(gold.text)
            continue
        ids = [[*tokenizer.encode_batch([text])[0], tokenizer.special_tokens.separator] for text in said]
        starts = [0, *(index for index in range(1, place) if roles[index] == U)]
        fitting = [first for first in starts if 1 + sum(map(len, ids[first:])) <= room]
        # Where not even the last user's turn and what follows it fit, the end of the last turn.
        kept = [token for turn in ids[min(fitting) :] for token in turn] if fitting else ids[-1]
        context = Context(
            source.id,
            place,
            [tokenizer.special_tokens.start, *kept[-(room - 1) :]],
            tuple(said),
            gold.text,
            gold.references,
        )
        replies.append(made_up(context))
        said.append(replies[-1].text)
    return replies


def all_at_once(dialogues, tokenizer, room: int = ROOM, progress=SILENT) -> list[Reply]:
    return roll_out(dialogues, tokenizer, room, lambda contexts: list(map(made_up, contexts)), progress)


ROLES = [
    (U, A, U, A, U, A), (U, A), (A, U, A, U), (A, U), (A, A, U, A, A), (S, U, A, U), (U, S, A, S, S, U, S), (S, A, U, A),
    (U, U, U, U), (U, S, S), (S, U), (A, A, A), (S, S, A, A), (U, S),
]  # fmt: skip


@pytest.mark.parametrize("roles", ROLES)
def test_one_dialogue_equals_the_reference(tokenizer, roles):
    one = dialogue("d", *roles)
    assert all_at_once([one], tokenizer) == played(one, tokenizer)


@pytest.mark.parametrize(
    ("roles", "replied"),
    [
        ((U, A, U, A), [1, 2, 3]),
        ((A, U, A), [2]),  # what comes before the first user turn is given
        ((S, U, S, A, S, U), [3, 5]),
        ((A, U), []),
        ((U, S, S), []),
        ((S, U), []),
        ((S, A, A), [1, 2]),  # nobody is the user: from the first turn
        ((A, A), [1]),
    ],
)
def test_replied_turns(tokenizer, roles, replied):
    assert [reply.turn_index for reply in all_at_once([dialogue("d", *roles)], tokenizer)] == replied


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from((S, U, A)), min_size=2, max_size=8), max_size=6), st.integers(8, 60))
def test_many_dialogues_equal_each_alone(tokenizer, roles, room):
    dialogues = [dialogue(str(number), *one) for number, one in enumerate(roles)]
    progress = RecordingProgress()
    replies = all_at_once(dialogues, tokenizer, room, progress)
    assert replies == [reply for one in dialogues for reply in played(one, tokenizer, room)]
    assert sum(progress.counts) == len(dialogues)


def test_the_context_holds_the_models_own_turns(tokenizer):
    contexts = []

    def reply(asked):
        contexts.extend(asked)
        return [
            Reply(c.dialogue_id, c.turn_index, c.history, c.reference, f"answer {c.turn_index}", True, c.references)
            for c in asked
        ]

    replies = roll_out([dialogue("d", U, A, S, U)], tokenizer, 100, reply)
    assert [context.history for context in contexts] == [("turn 0",), ("turn 0", "answer 1", "turn 2")]
    assert [(reply.reference, reply.references) for reply in replies] == [
        ("turn 1", ("reference 1",)), ("turn 3", ("reference 3",)),
    ]  # fmt: skip
    said = tokenizer.encode_batch(["turn 0", "answer 1", "turn 2"])
    assert contexts[1].ids == [
        tokenizer.special_tokens.start,
        *(token for ids in said for token in (*ids, tokenizer.special_tokens.separator)),
    ]


def test_unfinished_dialogues_share_a_call(tokenizer):
    asked, progress = [], RecordingProgress()

    def reply(contexts):
        asked.append([(context.dialogue_id, context.turn_index) for context in contexts])
        return list(map(made_up, contexts))

    dialogues = [dialogue("a", U, A, U), dialogue("b", U, A, S), dialogue("c", U, S), dialogue("d", S, U, A, U, A)]
    roll_out(dialogues, tokenizer, ROOM, reply, progress)
    assert asked == [[("a", 1), ("b", 1), ("d", 2)], [("a", 2), ("d", 3)], [("d", 4)]]
    assert progress.counts == [1, 1, 1, 1]


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_stop_ends_the_rollout(tokenizer, rounds):
    calls = []

    def reply(contexts):
        calls.append(len(contexts))
        return list(map(made_up, contexts)) if len(calls) <= rounds else None

    assert roll_out([dialogue("a", U, A, U, A, U), dialogue("b", U, A)], tokenizer, ROOM, reply) is None
    assert calls == [2, 1, 1][: rounds + 1]


def test_without_an_unfinished_dialogue_nothing_is_generated(tokenizer):
    assert roll_out([], tokenizer, ROOM, lambda contexts: None) == []
    assert roll_out([dialogue("a", U, S), dialogue("b", S, U)], tokenizer, ROOM, lambda contexts: None) == []
