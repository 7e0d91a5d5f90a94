import errno
import json
from itertools import chain

import numpy as np
import pytest

from dialog_trainer.data import dataset
from dialog_trainer.data.dataset import _join
from dialog_trainer.data.formatting import make_turn_tokens
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.sources.jsonl import Jsonl
from dialog_trainer.data.truncation import TRUNCATIONS
from dialog_trainer.errors import DataError
from dialog_trainer.types import Role, TurnSpans

OF_RUNS = ("roles", "turns", "lengths", "lost", "weights")


class Counting(DailyDialog):
    """Counts how often it is read."""

    reads = 0

    def dialogues(self, split):
        type(self).reads += 1
        return super().dialogues(split)


@pytest.fixture
def source(jsonl_folder):
    Counting.reads = 0
    return Counting(str(jsonl_folder), "", None, "")


def open_dialogues(source, cache, say=lambda line: None):
    return dataset.open_dialogues(source, "train", cache, say)


def open_tokens(table, tokenizer, cache, *, max_len=24, truncation="split", workers=1):
    return dataset.open_tokens(
        table, tokenizer, max_len=max_len, truncation=truncation, workers=workers, cache_dir=cache
    )


def lists(ids: np.ndarray, spans: TurnSpans) -> list[list]:
    """All that `TokenTable.columns` gives."""
    return [ids.tolist(), *(getattr(spans, name).tolist() for name in (*OF_RUNS, "counts", "dialogues"))]


def test_dialogues_are_read_once_and_said_each_time(source, dialogue_turns, tmp_path):
    said = []
    for _ in range(2):
        table = open_dialogues(source, tmp_path, said.append)
        assert [[turn.text for turn in table[index].turns] for index in range(len(table))] == dialogue_turns[:36]
    assert table[0].turns[1].role == Role.ASSISTANT
    assert list(table.texts()) == [text for turns in dialogue_turns[:36] for text in turns]
    assert Counting.reads == 1
    assert said[0] == said[1]
    assert said[0].startswith("train: 36 dialogues, ")


def test_tokens_are_made_once(source, tokenizer, tmp_path, monkeypatch):
    table = open_dialogues(source, tmp_path)
    first = open_tokens(table, tokenizer, tmp_path)
    monkeypatch.setattr(dataset, "_map", None)
    again = open_tokens(table, tokenizer, tmp_path)
    assert again.digest == first.digest
    everything = np.arange(len(first))
    assert lists(*first.columns(everything)) == lists(*again.columns(everything))
    assert (first.lengths.tolist(), first.dialogues.tolist()) == (again.lengths.tolist(), again.dialogues.tolist())


def test_columns_follow_the_asked_order(source, tokenizer, tmp_path):
    table = open_tokens(open_dialogues(source, tmp_path), tokenizer, tmp_path)
    short, long = int(table.lengths.argmin()), int(table.lengths.argmax())
    alone = {index: lists(*table.columns([index])) for index in (long, short)}
    assert len(alone[long][0]) > len(alone[short][0])
    found = lists(*table.columns([long, short, long]))
    assert found == [a + b + a for a, b in zip(alone[long], alone[short], strict=True)]
    for index in (long, short):
        ids, _, _, lengths, _, _, counts, dialogues = alone[index]
        assert table.lengths[index] == len(ids) == sum(lengths)
        assert (counts, dialogues) == ([len(lengths)], [table.dialogues[index]])


@pytest.mark.parametrize("truncation", ["split", "keep_start", "keep_end"])
def test_ids_and_runs_are_those_of_the_sequences_of_every_dialogue(source, tokenizer, tmp_path, truncation):
    table = open_dialogues(source, tmp_path)
    tokens = open_tokens(table, tokenizer, tmp_path, truncation=truncation)
    special_tokens = tokenizer.special_tokens
    expected, spoken = [], []
    for index in range(len(table)):
        turns = table[index].turns
        texts = tokenizer.encode_batch([turn.text for turn in turns])
        whole = make_turn_tokens(texts, [turn.role for turn in turns], special_tokens.separator)
        expected += [(index, sequence) for sequence in TRUNCATIONS[truncation](whole, special_tokens, 24)]
        spoken += [(index, turn.index, turn.role, len(turn.ids)) for turn in whole]
    assert tokens.dialogues.tolist() == [index for index, _ in expected]
    assert tokens.lengths.tolist() == [len(sequence.ids) for _, sequence in expected]
    ids, spans = tokens.columns(range(len(tokens)))
    assert ids.tolist() == [token for _, sequence in expected for token in sequence.ids]
    assert np.repeat(spans.roles, spans.lengths).tolist() == [role for _, one in expected for role in one.roles]
    assert np.repeat(spans.turns, spans.lengths).tolist() == [turn for _, one in expected for turn in one.turns]
    # Each turn once, with all its tokens, kept or lost.
    of_run = np.repeat(spans.dialogues, spans.counts).tolist()
    columns = (spans.turns.tolist(), spans.roles.tolist(), (spans.lengths + spans.lost).tolist())
    assert [run for run in zip(of_run, *columns, strict=True) if run[2] not in (Role.START, Role.END)] == spoken
    assert (spans.lost.sum() > 0) == (truncation != "split" or tokens.lengths.max() == 24)
    assert spans.weights.tolist() == [1.0] * len(spans.roles)
    kinds = {name: getattr(spans, name).dtype for name in (*OF_RUNS, "counts", "dialogues")}
    assert kinds == dict.fromkeys(kinds, np.int64) | {"weights": np.float32}


@pytest.mark.parametrize("size", [1, 5, 7, 1000])
def test_chunks_are_all_sequences_in_order(source, tokenizer, tmp_path, size):
    table = open_tokens(open_dialogues(source, tmp_path), tokenizer, tmp_path)
    chunks = list(table.chunks(size))
    assert [first for first, _, _ in chunks] == list(range(0, len(table), size))
    assert all(len(spans.counts) == size for _, _, spans in chunks[:-1])
    parts = [lists(ids, spans) for _, ids, spans in chunks]
    assert [list(chain(*column)) for column in zip(*parts, strict=True)] == lists(*table.columns(range(len(table))))


WEIGHED = [
    {"turns": ["I heard that", {"text": "Yes .", "weight": 0.25}, {"text": "the sea", "train": False}]},
    {"messages": [
        {"role": "system", "content": "be brief", "weight": 0}, {"role": "user", "content": "  "},
        {"role": "user", "content": "long walks " * 12, "weight": 3}, {"role": "assistant", "content": "No ."},
    ]},
    {"conversations": [{"from": "human", "value": "the cat", "train": True}, {"from": "gpt", "value": "a hat"}]},
]  # fmt: skip


@pytest.mark.parametrize("truncation", ["split", "keep_start", "keep_end"])
def test_weights_of_turns_go_through_the_tables_to_each_of_their_runs(tokenizer, tmp_path, truncation):
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in WEIGHED))
    own = Jsonl(str(tmp_path / "own.jsonl"), None, None, 0.0)
    table = dataset.open_dialogues(own, "train", tmp_path / "cache", lambda line: None)
    given = [[1, 0.25, 0], [0, 3, 1], [1, 1]]  # of the second row the empty turn is gone
    assert [[turn.weight for turn in table[index].turns] for index in range(3)] == given
    tokens = open_tokens(table, tokenizer, tmp_path / "cache", truncation=truncation, max_len=16)
    _, spans = tokens.columns(range(len(tokens)))
    of_run = zip(np.repeat(spans.dialogues, spans.counts), spans.turns, spans.roles, spans.weights, strict=True)
    turns = [(dialogue, turn, weight) for dialogue, turn, role, weight in of_run if role not in (Role.START, Role.END)]
    assert turns == [(number, turn, weight) for number, row in enumerate(given) for turn, weight in enumerate(row)]
    assert (spans.lost > 0).any()


def test_a_weight_of_a_turn_is_part_of_what_tokens_are_made_of(tokenizer, tmp_path):
    digests = []
    for weight in (1, 0.5):
        (tmp_path / "own.jsonl").write_text(json.dumps({"turns": ["a", {"text": "b", "weight": weight}]}))
        own = Jsonl(str(tmp_path / "own.jsonl"), None, None, 0.0)
        table = dataset.open_dialogues(own, "train", tmp_path / "cache", lambda line: None)
        tokens = open_tokens(table, tokenizer, tmp_path / "cache")
        assert tokens.columns([0])[1].weights.tolist()[2] == weight
        digests.append((table.digest, tokens.digest))
    assert digests[0][0] != digests[1][0]
    assert digests[0][1] != digests[1][1]


def test_what_tokens_are_made_of_is_their_key(source, tokenizer, gpt2_tokenizer, tmp_path, jsonl_folder):
    table = open_dialogues(source, tmp_path)
    other = dataset.open_dialogues(source, "validation", tmp_path, lambda line: None)
    made = [
        open_tokens(table, tokenizer, tmp_path),
        open_tokens(table, tokenizer, tmp_path, max_len=25),
        open_tokens(table, tokenizer, tmp_path, truncation="keep_end"),
        open_tokens(table, gpt2_tokenizer, tmp_path),
        open_tokens(other, tokenizer, tmp_path),
    ]
    assert len({table.digest for table in made}) == len(made)


def test_changed_content_is_read_anew(tmp_path):
    for number in (1, 2):
        (tmp_path / "train.jsonl").write_text(json.dumps({"turns": ["a", f"b{number}"]}))
        table = open_dialogues(Counting(str(tmp_path), "", None, ""), tmp_path / "cache")
        assert table[0].turns[1].text == f"b{number}"


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(source, tokenizer, tmp_path, monkeypatch):
    parts, join = [], _join
    monkeypatch.setattr(dataset, "_join", lambda files, path: (parts.append(len(files)), join(files, path)))
    monkeypatch.setattr(dataset, "MIN_DIALOGUES_PER_WORKER", 5)
    table = open_dialogues(source, tmp_path)
    one, two = (open_tokens(table, tokenizer, tmp_path / str(count), workers=count) for count in (1, 2))
    everything = np.arange(len(one))
    assert lists(*one.columns(everything)) == lists(*two.columns(everything))
    assert parts == [1, 2]


def test_few_dialogues_are_not_worth_a_process(source, tokenizer, tmp_path, monkeypatch):
    parts = []
    monkeypatch.setattr(dataset, "_join", lambda files, path: (parts.append(len(files)), files[0].rename(path)))
    open_tokens(open_dialogues(source, tmp_path), tokenizer, tmp_path, workers=8)
    assert parts == [1]


def test_a_fault_while_reading_leaves_nothing_behind(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"turns": ["a", "b"]}\nbroken\n')
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"train.jsonl:2: not JSON"):
        open_dialogues(Counting(str(tmp_path), "", None, ""), cache)
    assert list(cache.iterdir()) == []


def test_a_fault_while_tokenising_leaves_nothing_behind(source, tokenizer, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken")

    table = open_dialogues(source, tmp_path)
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_tokenize", broken)
        with pytest.raises(RuntimeError, match="broken"):
            open_tokens(table, tokenizer, tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert len(open_tokens(table, tokenizer, tmp_path)) >= len(table)


def test_a_full_disk_says_what_to_pass_and_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset.ArrowWriter, "finalize", full)
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"cache is full \(No space left on device\): .*pass data.cache_dir=<folder>"):
        open_dialogues(source, cache)
    assert list(cache.iterdir()) == []


@pytest.mark.slow
def test_a_very_long_dialogue_keeps_its_turn_numbers(tokenizer, tmp_path):
    count = 2**15 + 2
    (tmp_path / "train.jsonl").write_text(json.dumps({"turns": ["a"] * count}))
    table = open_dialogues(DailyDialog(str(tmp_path), "", None, ""), tmp_path / "cache")
    tokens = open_tokens(table, tokenizer, tmp_path / "cache", max_len=4, truncation="keep_end")
    ids, spans = tokens.columns([0])
    assert len(ids) == 4
    assert np.repeat(spans.turns, spans.lengths).tolist() == [count - 1] * 4
    # [CLS], the turns of which nothing is left, the last one, and the end.
    assert spans.turns.tolist() == [count - 1, *range(count), count - 1]
    assert (len(spans.roles), int(spans.lost.sum())) == (count + 2, 2 * (count - 1))


def test_no_dialogue_left_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"turns": ["a"]}\n{"turns": ["a", " "]}\n')
    with pytest.raises(DataError, match=r"no dialogue is left in .*train.jsonl: each needs at least two turns"):
        open_dialogues(Counting(str(tmp_path), "", None, ""), tmp_path / "cache")


def test_a_vocabulary_is_learned_from_a_bounded_number_of_dialogues(source, dialogue_turns, tmp_path, monkeypatch):
    table = open_dialogues(source, tmp_path)
    monkeypatch.setattr(dataset, "MAX_LEARNED_FROM", 10)
    assert list(table.texts()) == [text for turns in dialogue_turns[:36:4] for text in turns]
