"""Datasets on disk: read and tokenized once, keyed by what they are made from, the same for any number of workers."""

import errno
import json
from itertools import chain

import numpy as np
import pytest

from dialog_trainer.data import dataset
from dialog_trainer.data.dataset import _join
from dialog_trainer.data.sources import Jsonl
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.truncation import TRUNCATIONS
from dialog_trainer.errors import DataError
from dialog_trainer.types import Role, TurnSpans

SPAN_COLUMNS = ("roles", "turns", "lengths", "lost", "weights")


class CountingSource(DailyDialog):
    """Counts how often it is read."""

    reads = 0

    def dialogues(self, split):
        type(self).reads += 1
        return super().dialogues(split)


@pytest.fixture
def source(jsonl_folder):
    CountingSource.reads = 0
    return source_in(jsonl_folder)


def source_in(folder):
    return CountingSource(str(folder), "", None, "")


def jsonl(folder, *rows: dict) -> Jsonl:
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Jsonl(str(folder / "own.jsonl"), None, None, 0.0)


def open_dialogues(source, cache, say=lambda line: None):
    return dataset.open_dialogues(source, "train", cache, say)


def open_tokens(dialogues, tokenizer, cache, *, max_len=24, truncation="split", workers=1, **options):
    return dataset.open_tokens(
        dialogues, tokenizer, max_len=max_len, truncation=truncation, workers=workers, cache_dir=cache, **options
    )


def lists(ids: np.ndarray, spans: TurnSpans) -> list[list]:
    """All that `TokenDataset.columns` gives."""
    return [ids.tolist(), *(getattr(spans, name).tolist() for name in (*SPAN_COLUMNS, "counts", "dialogues"))]


def test_dialogues_are_read_once_and_counted_each_time(source, dialogue_turns, tmp_path):
    lines = []
    for _ in range(2):
        dialogues = open_dialogues(source, tmp_path, lines.append)
        assert [[turn.text for turn in dialogues[i].turns] for i in range(len(dialogues))] == dialogue_turns[:36]
    assert dialogues[0].turns[1].role == Role.ASSISTANT
    assert list(dialogues.texts()) == [text for turns in dialogue_turns[:36] for text in turns]
    assert CountingSource.reads == 1
    assert lines[0] == lines[1]
    assert lines[0].startswith("train: 36 dialogues, ")


def test_slow_work_is_announced_once(source, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SLOW_SECONDS", -1.0)
    monkeypatch.setattr(dataset, "MIN_DIALOGUES_PER_WORKER", 36)
    lines = []
    for _ in range(2):
        dialogues = open_dialogues(source, tmp_path, lines.append)
        open_tokens(dialogues, tokenizer, tmp_path, say=lines.append)
    assert [line.split(" from ")[0].split(": reading")[0] for line in lines] == [
        "train", "train: 36 dialogues, 190 turns", "tokenizing 36 dialogues", "train: 36 dialogues, 190 turns",
    ]  # fmt: skip
    assert lines[0].endswith("train.jsonl (36 dialogues so far)")


def test_tokens_are_made_once(source, tokenizer, tmp_path, monkeypatch):
    dialogues = open_dialogues(source, tmp_path)
    first = open_tokens(dialogues, tokenizer, tmp_path)
    monkeypatch.setattr(dataset, "_map", None)
    again = open_tokens(dialogues, tokenizer, tmp_path)
    assert again.digest == first.digest
    assert lists(*first.columns(range(len(first)))) == lists(*again.columns(range(len(first))))
    assert (first.lengths.tolist(), first.dialogues.tolist()) == (again.lengths.tolist(), again.dialogues.tolist())


def test_columns_follow_the_order_of_the_indices(source, tokenizer, tmp_path):
    tokens = open_tokens(open_dialogues(source, tmp_path), tokenizer, tmp_path)
    short, long = int(tokens.lengths.argmin()), int(tokens.lengths.argmax())
    alone = {index: lists(*tokens.columns([index])) for index in (long, short)}
    assert len(alone[long][0]) > len(alone[short][0])
    found = lists(*tokens.columns([long, short, long]))
    assert found == [a + b + a for a, b in zip(alone[long], alone[short], strict=True)]
    for index in (long, short):
        ids, _, _, lengths, _, _, counts, dialogues = alone[index]
        assert tokens.lengths[index] == len(ids) == sum(lengths)
        assert (counts, dialogues) == ([len(lengths)], [tokens.dialogues[index]])


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_rows_are_the_sequences_of_every_dialogue(source, tokenizer, tmp_path, truncation):
    dialogues = open_dialogues(source, tmp_path)
    tokens = open_tokens(dialogues, tokenizer, tmp_path, truncation=truncation)
    expected = []
    for index in range(len(dialogues)):
        turns = dialogues[index].turns
        spans = tokenizer.chat_format.encode_turns([turn.text for turn in turns], [turn.role for turn in turns])
        expected += [(index, one) for one in TRUNCATIONS[truncation](spans, tokenizer.special_tokens, 24)]
    assert tokens.dialogues.tolist() == [index for index, _ in expected]
    assert tokens.lengths.tolist() == [len(sequence.ids) for _, sequence in expected]
    ids, spans = tokens.columns(range(len(tokens)))
    flat = [span for _, sequence in expected for span in sequence.spans]
    assert ids.tolist() == [token for span in flat for token in span.ids]
    assert spans.counts.tolist() == [len(sequence.spans) for _, sequence in expected]
    rows = zip(spans.roles, spans.turns, spans.lengths, spans.lost, spans.weights, strict=True)
    assert list(rows) == [(span.role, span.turn, len(span.ids), span.lost, 1.0) for span in flat]
    assert (spans.lost.sum() > 0) == (truncation != "split" or tokens.lengths.max() == 24)
    kinds = {name: getattr(spans, name).dtype for name in (*SPAN_COLUMNS, "counts", "dialogues")}
    assert kinds == dict.fromkeys(kinds, np.int64) | {"weights": np.float32}


@pytest.mark.parametrize("size", [1, 5, 7, 1000])
def test_chunks_are_all_sequences_in_order(source, tokenizer, tmp_path, size):
    tokens = open_tokens(open_dialogues(source, tmp_path), tokenizer, tmp_path)
    chunks = list(tokens.chunks(size))
    assert [first for first, _, _ in chunks] == list(range(0, len(tokens), size))
    assert all(len(spans.counts) == size for _, _, spans in chunks[:-1])
    parts = [lists(ids, spans) for _, ids, spans in chunks]
    assert [list(chain(*column)) for column in zip(*parts, strict=True)] == lists(*tokens.columns(range(len(tokens))))


def test_sums_by_sequence(source, tokenizer, tmp_path):
    tokens = open_tokens(open_dialogues(source, tmp_path), tokenizer, tmp_path)
    _, spans = tokens.columns(range(len(tokens)))
    assert spans.roles[spans.first_spans].tolist() == [Role.FORMAT] * len(tokens)
    assert spans.sum_by_sequence(spans.lengths).tolist() == tokens.lengths.tolist()
    assert np.bincount(spans.sequences).tolist() == spans.counts.tolist()


WEIGHTED = [
    {"turns": ["I heard that", {"text": "Yes .", "weight": 0.25}, {"text": "the sea", "train": False}]},
    {"messages": [
        {"role": "system", "content": "be brief", "weight": 0}, {"role": "user", "content": "  "},
        {"role": "user", "content": "long walks " * 12, "weight": 3}, {"role": "assistant", "content": "No ."},
    ]},
    {"conversations": [{"from": "human", "value": "the cat", "train": True}, {"from": "gpt", "value": "a hat"}]},
]  # fmt: skip


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_weights_of_turns_reach_their_spans(tokenizer, tmp_path, truncation):
    dialogues = open_dialogues(jsonl(tmp_path, *WEIGHTED), tmp_path / "cache")
    given = [[1, 0.25, 0], [0, 3, 1], [1, 1]]  # the empty turn of the second row is dropped
    assert [[turn.weight for turn in dialogues[index].turns] for index in range(3)] == given
    tokens = open_tokens(dialogues, tokenizer, tmp_path / "cache", truncation=truncation, max_len=16)
    _, spans = tokens.columns(range(len(tokens)))
    rows = zip(spans.dialogues[spans.sequences], spans.turns, spans.roles, spans.weights, strict=True)
    turns = [(dialogue, turn, weight) for dialogue, turn, role, weight in rows if role not in (Role.FORMAT, Role.END)]
    assert turns == [(number, turn, weight) for number, row in enumerate(given) for turn, weight in enumerate(row)]
    assert (spans.lost > 0).any()


def test_keys_depend_on_the_weight_of_a_turn(tokenizer, tmp_path):
    digests = []
    for weight in (1, 0.5):
        source = jsonl(tmp_path, {"turns": ["a", {"text": "b", "weight": weight}]})
        dialogues = open_dialogues(source, tmp_path / "cache")
        tokens = open_tokens(dialogues, tokenizer, tmp_path / "cache")
        assert tokens.columns([0])[1].weights.tolist()[2] == weight
        digests.append((dialogues.digest, tokens.digest))
    assert digests[0][0] != digests[1][0]
    assert digests[0][1] != digests[1][1]


@pytest.mark.slow
def test_keys_depend_on_all_that_tokens_are_made_from(source, tokenizer, gpt2_tokenizer, tmp_path):
    dialogues = open_dialogues(source, tmp_path)
    made = [
        open_tokens(dialogues, tokenizer, tmp_path),
        open_tokens(dialogues, tokenizer, tmp_path, max_len=25),
        open_tokens(dialogues, tokenizer, tmp_path, truncation="keep_end"),
        open_tokens(dialogues, gpt2_tokenizer, tmp_path),
        open_tokens(dataset.open_dialogues(source, "validation", tmp_path, print), tokenizer, tmp_path),
    ]
    assert len({tokens.digest for tokens in made}) == len(made)


def test_changed_content_is_read_again(tmp_path):
    for number in (1, 2):
        (tmp_path / "train.jsonl").write_text(json.dumps({"turns": ["a", f"b{number}"]}))
        assert open_dialogues(source_in(tmp_path), tmp_path / "cache")[0].turns[1].text == f"b{number}"


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(source, tokenizer, tmp_path, monkeypatch):
    parts, join = [], _join
    monkeypatch.setattr(dataset, "_join", lambda files, path: (parts.append(len(files)), join(files, path)))
    monkeypatch.setattr(dataset, "MIN_DIALOGUES_PER_WORKER", 5)
    dialogues = open_dialogues(source, tmp_path)
    one, two = (open_tokens(dialogues, tokenizer, tmp_path / str(count), workers=count) for count in (1, 2))
    assert lists(*one.columns(range(len(one)))) == lists(*two.columns(range(len(one))))
    assert parts == [1, 2]


def test_few_dialogues_need_one_process(source, tokenizer, tmp_path, monkeypatch):
    parts = []
    monkeypatch.setattr(dataset, "_join", lambda files, path: (parts.append(len(files)), files[0].rename(path)))
    open_tokens(open_dialogues(source, tmp_path), tokenizer, tmp_path, workers=8)
    assert parts == [1]


def test_an_error_while_reading_leaves_nothing(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"turns": ["a", "b"]}\nbroken\n')
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"train.jsonl:2: not JSON"):
        open_dialogues(source_in(tmp_path), cache)
    assert list(cache.iterdir()) == []


def test_an_error_while_tokenizing_leaves_nothing(source, tokenizer, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken")

    dialogues = open_dialogues(source, tmp_path)
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setitem(TRUNCATIONS, "split", broken)
        with pytest.raises(RuntimeError, match="broken"):
            open_tokens(dialogues, tokenizer, tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert len(open_tokens(dialogues, tokenizer, tmp_path)) >= len(dialogues)


def test_a_full_disk_names_the_option_and_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset, "_to_record_batch", full)
    cache = tmp_path / "cache"
    with pytest.raises(
        DataError, match=r"cache is full: .*\(No space left on device\): .*pass data.cache_dir=<folder>"
    ):
        open_dialogues(source, cache)
    assert list(cache.iterdir()) == []


@pytest.mark.slow
def test_a_very_long_dialogue_keeps_its_turn_indices(tokenizer, tmp_path):
    count = 2**15 + 2
    (tmp_path / "train.jsonl").write_text(json.dumps({"turns": ["a"] * count}))
    dialogues = open_dialogues(source_in(tmp_path), tmp_path / "cache")
    tokens = open_tokens(dialogues, tokenizer, tmp_path / "cache", max_len=4, truncation="keep_end")
    ids, spans = tokens.columns([0])
    assert len(ids) == 4
    assert np.repeat(spans.turns, spans.lengths).tolist() == [count - 1] * 4
    # [CLS], the turns that lost everything, the last one, and the end.
    assert spans.turns.tolist() == [count - 1, *range(count), count - 1]
    assert (len(spans.roles), int(spans.lost.sum())) == (count + 2, 2 * (count - 1))


def test_a_split_without_dialogues_is_an_error(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"turns": ["a"], "lines": 1}\n{"turns": ["a", " "]}\n')
    with pytest.raises(
        DataError, match=r"in .*train.jsonl: each needs at least two turns with text; keys not read: lines"
    ):
        open_dialogues(source_in(tmp_path), tmp_path / "cache")


def test_a_vocabulary_is_learned_from_a_bounded_number_of_dialogues(source, dialogue_turns, tmp_path, monkeypatch):
    dialogues = open_dialogues(source, tmp_path)
    monkeypatch.setattr(dataset, "MAX_VOCABULARY_DIALOGUES", 10)
    assert list(dialogues.texts()) == [text for turns in dialogue_turns[:36:4] for text in turns]
