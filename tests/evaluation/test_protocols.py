"""Which turns each protocol replies to, with what, and its signature."""

import dataclasses
from collections import Counter

import pytest
from helpers.progress import RecordingProgress

from dialog_trainer.config.range_words import literal_names
from dialog_trainer.config.schema import MetricsConfig
from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sources import Jsonl
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.evaluation import protocols
from dialog_trainer.evaluation.contexts import build_contexts
from dialog_trainer.evaluation.original.protocol import OriginalProtocol
from dialog_trainer.evaluation.original.rows import decode_row, format_target_row, generate_rows
from dialog_trainer.evaluation.original.scores import original_scores
from dialog_trainer.evaluation.progress import SILENT
from dialog_trainer.evaluation.protocols import ReplyProtocol, ReplySettings, TurnProtocol, generate_replies
from dialog_trainer.evaluation.rollout import roll_out
from dialog_trainer.metrics.registry import SCORES, describe_scores, score_replies
from dialog_trainer.model.generation.sampling import GREEDY, Decoding
from dialog_trainer.types import Dialogue, Reply, Role, Turn

PROTOCOLS = literal_names(MetricsConfig.model_fields["protocol"].annotation)

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


def protocol_of(name: str, **changes) -> ReplyProtocol:
    settings = dataclasses.replace(ReplySettings(A, 4, 48, 100), **changes)
    return OriginalProtocol(settings, 60, clean_up=False) if name == "original" else TurnProtocol(name, settings)


@pytest.mark.parametrize(("protocol", "role"), TURNS)
def test_turns_that_get_a_reply(tiny_model, tokenizer, protocol, role):
    replies = protocol_of(protocol, role=role).produce_replies(MIXED, tiny_model, tokenizer, SILENT)
    expected = [(name, turn) for name, turns in TURNS[protocol, role].items() for turn in turns]
    assert [(reply.dialogue_id, reply.turn_index) for reply in replies] == expected
    texts = {dialogue.id: [turn.text for turn in dialogue.turns] for dialogue in MIXED}
    for reply in replies:
        if protocol != "original":
            assert reply.reference == texts[reply.dialogue_id][reply.turn_index]
            assert reply.references == (("x", "y") if reply.dialogue_id == "a" else ())
        if protocol in ("response", "all_turns"):
            assert reply.history == tuple(texts[reply.dialogue_id][: reply.turn_index])


@pytest.mark.parametrize("name", ["response", "all_turns"])
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE, BEAM])
def test_replies_to_gold_contexts(tiny_model, tokenizer, name, decoding):
    protocol = protocol_of(name, decoding=decoding, seed=3, window=20, max_new_tokens=5)
    roles = (A,) if name == "response" else (U, A)
    contexts = [context for dialogue in MIXED for context in build_contexts(dialogue, tokenizer, 15, roles)]
    assert protocol.gold_contexts(MIXED, tokenizer) == contexts
    assert protocol.produce_replies(MIXED, tiny_model, tokenizer, SILENT) == generate_replies(
        contexts, tiny_model, tokenizer, protocol.settings
    )


@pytest.mark.parametrize("name", ["response", "all_turns", "rollout"])
def test_contexts_use_the_window_that_the_longest_reply_leaves(tokenizer, monkeypatch, name):
    """Of one turn that is too long for any window, as much as there is room."""
    long = Dialogue("a", (Turn(U, "the sea " * 50), Turn(A, "yes")))
    lengths = []

    def replied(contexts, **_):
        lengths.extend(len(context.ids) for context in contexts)
        return contexts_as_replies(contexts)

    monkeypatch.setattr(protocols, "generate_replies", replied)
    protocol_of(name, window=20, max_new_tokens=5).produce_replies([long], None, tokenizer, SILENT)
    assert lengths == [15]


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLE])
def test_a_rollout_replies_as_set(tiny_model, tokenizer, decoding):
    protocol = protocol_of("rollout", decoding=decoding, seed=3, window=30, max_new_tokens=5)
    reply = lambda contexts: generate_replies(contexts, tiny_model, tokenizer, protocol.settings)  # noqa: E731
    alone = [reply_ for dialogue in MIXED for reply_ in roll_out([dialogue], tokenizer, 25, reply)]
    assert protocol.produce_replies(MIXED, tiny_model, tokenizer, SILENT) == alone


def test_original_replies_are_rows(tiny_model, tokenizer):
    replies = protocol_of("original", window=30).produce_replies(MIXED, tiny_model, tokenizer, SILENT)
    rows = generate_rows(MIXED, tiny_model, tokenizer, max_len=30, batch_tokens=100)
    targets = [format_target_row(one, tokenizer, 30) for one in MIXED]
    assert [reply.text for reply in replies] == [decode_row(row, tokenizer, False) for row in rows]
    assert [reply.accepted_texts() for reply in replies] == [(decode_row(row, tokenizer, False),) for row in targets]
    assert [reply.history for reply in replies] == [(one.turns[0].text,) for one in MIXED]
    assert not any(reply.ended for reply in replies)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_scores_of_replies(tokenizer, name):
    """Turns by the registry, as functions of sums; rows by the rule of the original program."""
    replies = [Reply("d", 1, ("a",), "the sea is cold .", "the sea is green .", True)]
    protocol, metrics = protocol_of(name), {name: SCORES[name] for name in ("bleu2", "ppl", "nist4")}
    scores, summed = protocol.score_replies(metrics, replies, tokenizer), list(protocol.summed_metrics(metrics))
    if name == "original":
        expected = original_scores([replies[0].text], [replies[0].reference], tokenizer.hf_tokenizer.tokenize, 60)
        assert (scores, summed, protocol.has_turns) == (expected, ["ppl"], False)
        assert protocol.describe_scores(metrics) == "case:mixed|tok:model|rule:nltk|smooth:none|rows:whole|batch:60"
    else:
        expected = score_replies(metrics, replies)
        assert (scores, summed, protocol.has_turns) == (expected, list(metrics), True)
        assert protocol.describe_scores(metrics) == describe_scores(["bleu2", "nist4"])


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_progress_counts_dialogues(tiny_model, tokenizer, name, batch_tokens):
    progress = RecordingProgress()
    protocol_of(name, batch_tokens=batch_tokens).produce_replies(MIXED, tiny_model, tokenizer, progress)
    assert sum(progress.counts) == len(MIXED)
    assert all(count >= 0 for count in progress.counts)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_stop_gives_no_replies(tiny_model, tokenizer, name):
    answers = iter([False] + [True] * 100)
    progress = RecordingProgress(stop=lambda progress: next(answers))
    assert protocol_of(name, batch_tokens=1).produce_replies(MIXED, tiny_model, tokenizer, progress) is None
    assert next(answers) is True  # neither at once nor after all


@pytest.mark.parametrize("name", ["response", "all_turns", "rollout"])
def test_without_a_turn_to_reply_to_there_is_no_reply(tiny_model, tokenizer, name):
    alone = [MIXED[3], Dialogue("e", (Turn(U, "a"), Turn(S, "b"), Turn(S, "c")))]
    assert protocol_of(name).produce_replies(alone, tiny_model, tokenizer, SILENT) == []


@pytest.mark.parametrize("name", PROTOCOLS)
def test_batches_change_no_reply(tiny_model, tokenizer, name):
    small, large = (
        protocol_of(name, batch_tokens=size).produce_replies(MIXED, tiny_model, tokenizer, SILENT)
        for size in (1, 10_000)
    )
    assert small == large


# What the numbers of each protocol depend on besides data and scores; no other change may show.
NAMED = {
    "response": {"role", "max_new_tokens", "window", "decoding"},
    "all_turns": {"max_new_tokens", "window", "decoding"},
    "rollout": {"max_new_tokens", "window", "decoding"},
    "original": {"window"},
}
CHANGES = {"role": U, "max_new_tokens": 5, "window": 49, "batch_tokens": 101, "decoding": SAMPLE, "seed": 1}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_signature_names_what_changes_the_replies(name):
    before = protocol_of(name).signature()
    changed = {key for key, value in CHANGES.items() if protocol_of(name, **{key: value}).signature() != before}
    assert changed == NAMED[name]
    assert before not in [protocol_of(other).signature() for other in PROTOCOLS if other != name]


def test_a_signature_names_the_seed_of_samples():
    def signature(**changes):
        return protocol_of("response", **changes).signature()

    for decoding, names in ((GREEDY, False), (BEAM, False), (SAMPLE, True)):
        assert len({signature(decoding=decoding, seed=seed) for seed in (0, 1)}) == 1 + names
    other = [Decoding("sample", 0.8, 0.9), Decoding("sample", 0.7, 0.8), Decoding("beam", beams=3), BEAM, GREEDY]
    assert len({signature(decoding=decoding) for decoding in [SAMPLE, *other]}) == 6


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        (
            "response",
            {},
            "protocol:response|role:assistant|context:gold|decode:greedy|max_new:4|window:48"
            "|truncation:whole turns from the left",
        ),
        (
            "rollout",
            {"decoding": SAMPLE, "seed": 7},
            "protocol:rollout|role:user+assistant|context:own|decode:sample(temperature 0.7, top_p 0.9)|seed:7|max_new:4"
            "|window:48|truncation:whole turns from the left",
        ),
        (
            "original",
            {},
            "protocol:original|context:first turn|decode:greedy|row:48|truncation:end of the row",
        ),
    ],
)
def test_signatures_in_full(name, changes, text):
    assert protocol_of(name, **changes).signature() == text


def test_contexts_of_dailydialog(real_data, gpt2_tokenizer, tmp_path, monkeypatch):
    source = DailyDialog(str(real_data / "dailydialog"), "", None, "")
    table = open_dialogues(source, "test", tmp_path, lambda line: None)
    dialogues = [table[index] for index in range(len(table))]
    for protocol, role, count in (("all_turns", A, 6740), ("response", A, 3700), ("response", U, 3040)):
        settings = ReplySettings(role, max_new_tokens=40, window=128, batch_tokens=100)
        contexts = TurnProtocol(protocol, settings).gold_contexts(dialogues, gpt2_tokenizer)
        assert len(contexts) == count
        assert max(len(context.ids) for context in contexts) <= 88
    several = open_dialogues(
        Jsonl("", None, str(real_data / "dailydialog/test_multiref.jsonl"), 0.0), "test", tmp_path, lambda line: None
    )
    protocol = protocol_of("all_turns", max_new_tokens=40, window=128)
    contexts = protocol.gold_contexts([several[index] for index in range(len(several))], gpt2_tokenizer)
    assert Counter(len(context.references) for context in contexts) == {5: 6740}
    monkeypatch.setattr(protocols, "generate_replies", lambda contexts, **_: contexts_as_replies(contexts))
    protocol = protocol_of("rollout", max_new_tokens=40, window=128)
    replies = protocol.produce_replies(dialogues, None, gpt2_tokenizer, SILENT)
    assert len(replies) == 6740
    assert Counter(reply.turn_index for reply in replies)[1] == 1000


def contexts_as_replies(contexts):
    return [context.make_reply(context.reference, ended=True) for context in contexts]
