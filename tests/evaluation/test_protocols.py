"""By which protocol whom is replied to, and what a signature says of it."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from dialog_trainer.config.options import PROTOCOLS
from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.sources.jsonl import Jsonl
from dialog_trainer.evaluation import evaluator, protocols
from dialog_trainer.evaluation.contexts import build_contexts, generate_replies
from dialog_trainer.evaluation.evaluator import _replied
from dialog_trainer.evaluation.original.rows import format_target_row, generate_rows
from dialog_trainer.evaluation.protocols import Production, ReplySettings, build_gold_contexts, produce_replies
from dialog_trainer.evaluation.rollout import roll_out
from dialog_trainer.model.generation.sampling import GREEDY, Decoding
from dialog_trainer.types import Dialogue, Reply, Role, Turn

S, U, A = Role.SYSTEM, Role.USER, Role.ASSISTANT
SAMPLE, BEAM = Decoding("sample", 0.7, 0.9), Decoding("beam", beams=2)
MIXED = (
    Dialogue("a", tuple(Turn(r, f"turn {p}", references=("x", "y")) for p, r in enumerate((U, A, U, A)))),
    Dialogue("b", tuple(Turn(r, f"words {p} of it") for p, r in enumerate((S, U, A, S, U)))),
    Dialogue("c", tuple(Turn(r, f"said {p}") for p, r in enumerate((A, U, A, A, U)))),
    Dialogue("d", tuple(Turn(r, f"so {p}") for p, r in enumerate((U, S)))),
)
TURNS = {
    ("response", A): {"a": [1, 3], "b": [2], "c": [2, 3]},
    ("response", U): {"a": [2], "b": [1, 4], "c": [1, 4]},
    ("all_turns", A): {"a": [1, 2, 3], "b": [1, 2, 4], "c": [1, 2, 3, 4]},
    ("rollout", A): {"a": [1, 2, 3], "b": [2, 4], "c": [2, 3, 4]},
    ("original", A): {"a": [1], "b": [1], "c": [1], "d": [1]},
}


def how(**changes) -> ReplySettings:
    return dataclasses.replace(ReplySettings("response", A, 4, 48, 100, GREEDY, 0), **changes)


def production(model, tokenizer, stopped=lambda: False, advance=lambda count: None) -> Production:
    return Production(model, tokenizer, stopped, advance)


@pytest.mark.parametrize(("protocol", "role"), TURNS)
def test_whom_a_protocol_replies_to_in_the_order_of_the_dialogues(tiny_model, tokenizer, protocol, role):
    replies = produce_replies(MIXED, how(protocol=protocol, role=role), production(tiny_model, tokenizer))
    expected = [(name, turn) for name, turns in TURNS[protocol, role].items() for turn in turns]
    assert [(reply.dialogue_id, reply.turn_index) for reply in replies] == expected
    texts = {dialogue.id: [turn.text for turn in dialogue.turns] for dialogue in MIXED}
    for reply in replies:
        if protocol != "original":
            assert reply.reference == texts[reply.dialogue_id][reply.turn_index]
            assert reply.references == (("x", "y") if reply.dialogue_id == "a" else ())
        if protocol in ("response", "all_turns"):
            assert reply.history == tuple(texts[reply.dialogue_id][: reply.turn_index])


@pytest.mark.parametrize("protocol", ["response", "all_turns"])
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE, BEAM])
def test_replies_to_gold_contexts_are_made_as_asked(tiny_model, tokenizer, protocol, decoding):
    asked = how(protocol=protocol, decoding=decoding, seed=3, window=20, max_new_tokens=5)
    roles = (A,) if protocol == "response" else (U, A)
    contexts = [context for dialogue in MIXED for context in build_contexts(dialogue, tokenizer, 15, roles)]
    assert build_gold_contexts(MIXED, asked, tokenizer) == contexts
    made = {"max_new_tokens": 5, "batch_tokens": 100, "decoding": decoding, "seed": 3}
    assert produce_replies(MIXED, asked, production(tiny_model, tokenizer)) == generate_replies(
        contexts, tiny_model, tokenizer, **made
    )


@pytest.mark.parametrize("protocol", ["response", "all_turns", "rollout"])
def test_contexts_use_the_window_that_the_longest_reply_leaves(tokenizer, monkeypatch, protocol):
    """Of one turn that is too long for any window, just as much as there is room."""
    long = Dialogue("a", (Turn(U, "the sea " * 50), Turn(A, "yes")))
    asked = how(protocol=protocol, window=20, max_new_tokens=5)
    lengths = []

    def replied(contexts, *_, **__):
        lengths.extend(len(context.ids) for context in contexts)
        return contexts_as_replies(contexts)

    monkeypatch.setattr(protocols, "generate_replies", replied)
    produce_replies([long], asked, production(None, tokenizer))
    assert lengths == [15]


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE])
def test_a_rollout_is_made_as_asked(tiny_model, tokenizer, decoding):
    asked = how(protocol="rollout", decoding=decoding, seed=3, window=30, max_new_tokens=5)
    made = {"max_new_tokens": 5, "batch_tokens": 100, "decoding": decoding, "seed": 3}
    alone = [
        reply
        for dialogue in MIXED
        for reply in roll_out(
            [dialogue], tokenizer, 25, lambda contexts: generate_replies(contexts, tiny_model, tokenizer, **made)
        )
    ]
    assert produce_replies(MIXED, asked, production(tiny_model, tokenizer)) == alone


def test_the_original_compares_whole_rows(tiny_model, tokenizer):
    replies = produce_replies(MIXED, how(protocol="original", window=30), production(tiny_model, tokenizer))
    rows = generate_rows(MIXED, tiny_model, tokenizer, max_len=30, batch_tokens=100)
    assert [reply.text for reply in replies] == rows
    assert [reply.targets() for reply in replies] == [(format_target_row(one, tokenizer, 30),) for one in MIXED]
    assert [reply.history for reply in replies] == [(one.turns[0].text,) for one in MIXED]
    assert not any(reply.ended for reply in replies)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_the_dialogues_done_add_up_to_all(tiny_model, tokenizer, protocol, batch_tokens):
    done = []
    asked = how(protocol=protocol, batch_tokens=batch_tokens)
    produce_replies(MIXED, asked, production(tiny_model, tokenizer, advance=done.append))
    assert sum(done) == len(MIXED)
    assert all(count >= 0 for count in done)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_once_stopped_there_are_no_replies(tiny_model, tokenizer, protocol):
    looks = iter([False] + [True] * 100)
    asked = how(protocol=protocol, batch_tokens=1)
    assert produce_replies(MIXED, asked, production(tiny_model, tokenizer, stopped=lambda: next(looks))) is None
    assert next(looks) is True  # neither at once nor after all


@pytest.mark.parametrize("protocol", ["response", "all_turns", "rollout"])
def test_without_a_turn_to_reply_to_there_is_no_reply(tiny_model, tokenizer, protocol):
    alone = [MIXED[3], Dialogue("e", (Turn(U, "a"), Turn(S, "b"), Turn(S, "c")))]
    assert produce_replies(alone, how(protocol=protocol), production(tiny_model, tokenizer)) == []


def test_batches_change_no_reply(tiny_model, tokenizer):
    for protocol in PROTOCOLS:
        small, large = (
            produce_replies(MIXED, how(protocol=protocol, batch_tokens=size), production(tiny_model, tokenizer))
            for size in (1, 10_000)
        )
        assert small == large


# What each protocol's numbers depend on, beside the data and the scores; a change of anything else changes nothing.
NAMED = {
    "response": {"protocol", "role", "max_new_tokens", "window", "decoding"},
    "all_turns": {"protocol", "max_new_tokens", "window", "decoding"},
    "rollout": {"protocol", "max_new_tokens", "window", "decoding"},
    "original": {"protocol", "window"},
}
CHANGES = {"role": U, "max_new_tokens": 5, "window": 49, "batch_tokens": 101, "decoding": SAMPLE, "seed": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_signature_changes_with_what_it_names_and_with_nothing_else(protocol):
    before = how(protocol=protocol).signature()
    changed = {key for key, value in CHANGES.items() if how(protocol=protocol, **{key: value}).signature() != before}
    others = [how(protocol=other).signature() for other in PROTOCOLS if other != protocol]
    assert changed | {"protocol"} == NAMED[protocol]
    assert before not in others


def test_a_signature_names_the_seed_of_what_is_drawn_alone():
    for decoding, names in ((GREEDY, False), (BEAM, False), (SAMPLE, True)):
        signatures = {how(decoding=decoding, seed=seed).signature() for seed in (0, 1)}
        assert len(signatures) == 1 + names
    other = [Decoding("sample", 0.8, 0.9), Decoding("sample", 0.7, 0.8), Decoding("beam", beams=3), BEAM, GREEDY]
    assert len({how(decoding=decoding).signature() for decoding in [SAMPLE, *other]}) == 6


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "protocol:response|role:assistant|context:gold|decode:greedy|max_new:4|window:48"
            "|truncation:whole turns from the left",
        ),
        (
            {"protocol": "rollout", "decoding": SAMPLE, "seed": 7},
            "protocol:rollout|role:user+assistant|context:own|decode:sample(temperature 0.7, top_p 0.9)|seed:7|max_new:4"
            "|window:48|truncation:whole turns from the left",
        ),
        (
            {"protocol": "original"},
            "protocol:original|context:first turn|decode:greedy|row:48|truncation:end of the row",
        ),
    ],
)
def test_signatures_in_full(changes, text):
    assert how(**changes).signature() == text


def test_contexts_of_dailydialog(real_data, gpt2_tokenizer, tmp_path, monkeypatch):
    source = DailyDialog(str(real_data / "dailydialog"), "", None, "")
    table = open_dialogues(source, "test", tmp_path, lambda line: None)
    dialogues = [table[index] for index in range(len(table))]
    for protocol, role, count in (("all_turns", A, 6740), ("response", A, 3700), ("response", U, 3040)):
        asked = how(protocol=protocol, role=role, max_new_tokens=40, window=128)
        contexts = build_gold_contexts(dialogues, asked, gpt2_tokenizer)
        assert len(contexts) == count
        assert max(len(context.ids) for context in contexts) <= 88
    several = open_dialogues(
        Jsonl("", None, str(real_data / "dailydialog/test_multiref.jsonl"), 0.0), "test", tmp_path, lambda line: None
    )
    asked = how(protocol="all_turns", max_new_tokens=40, window=128)
    contexts = build_gold_contexts([several[index] for index in range(len(several))], asked, gpt2_tokenizer)
    assert Counter(len(context.references) for context in contexts) == {5: 6740}
    monkeypatch.setattr(protocols, "generate_replies", lambda contexts, *_, **__: contexts_as_replies(contexts))
    replies = produce_replies(
        dialogues,
        how(protocol="rollout", max_new_tokens=40, window=128),
        production(None, gpt2_tokenizer),
    )
    assert len(replies) == 6740
    assert Counter(reply.turn_index for reply in replies)[1] == 1000


def contexts_as_replies(contexts):
    return [
        protocols.Reply(c.dialogue_id, c.turn_index, c.history, c.reference, c.reference, True, c.references)
        for c in contexts
    ]


class Table:
    """As much of a `DialogueTable` as replying reads."""

    def __init__(self, size: int):
        self.rows = [{"id": f"d{index}"} for index in range(size)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Dialogue:
        return Dialogue(self.rows[index]["id"], (Turn(U, "a"), Turn(A, "b"), Turn(A, "c")))


@pytest.mark.parametrize(("seconds", "looks"), [(None, 4), (0.5, 1), (1.0, 1), (1.5, 2), (2.5, 3), (3.5, 4), (99.0, 4)])
def test_when_the_time_is_up_whole_dialogues_are_done_by_their_hash(monkeypatch, seconds, looks):
    """Each part of 16 dialogues takes a second; the last has 2 of the 50."""
    clock = [0.0]
    asked: list[list[str]] = []

    def replied(dialogues, how, by):
        clock[0] += 1.0
        asked.append([dialogue.id for dialogue in dialogues])
        return [Reply(one.id, turn, (), "b", "c", True) for one in dialogues for turn in (1, 2)]

    monkeypatch.setattr(evaluator, "produce_replies", replied)
    monkeypatch.setattr(evaluator.time, "monotonic", lambda: clock[0])
    table = Table(50)
    replies, count = _replied(
        None, None, table, np.ones(50), how(), None, seconds, lambda *_: lambda n: None, lambda: False
    )
    by_hash = sorted(range(50), key=lambda index: derive_seed("draw", f"d{index}"))
    done = sorted(by_hash[: 16 * looks])
    assert [(reply.dialogue_id, reply.turn_index) for reply in replies] == [
        (f"d{index}", turn) for index in done for turn in (1, 2)
    ]
    assert count == len(done)
    if seconds is None:
        assert asked == [[f"d{index}" for index in range(50)]]
    else:
        assert [one for part in asked for one in part] == [f"d{index}" for index in by_hash[: 16 * looks]]
