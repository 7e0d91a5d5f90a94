import errno
import json

import numpy as np
import pytest

from dialog_trainer.data import tables
from dialog_trainer.data.sources import DailyDialog
from dialog_trainer.errors import DataError
from dialog_trainer.records import Role


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
    return tables.open_dialogues(source, "train", cache, say)


def open_tokens(table, vocabulary, cache, *, max_len=24, truncation="split", workers=1):
    return tables.open_tokens(
        table, vocabulary, max_len=max_len, truncation=truncation, workers=workers, cache_dir=cache
    )


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


def test_tokens_are_made_once(source, vocabulary, tmp_path, monkeypatch):
    table = open_dialogues(source, tmp_path)
    first = open_tokens(table, vocabulary, tmp_path)
    monkeypatch.setattr(tables, "_map", None)
    again = open_tokens(table, vocabulary, tmp_path)
    assert again.digest == first.digest
    everything = np.arange(len(first))
    for one, other in zip(first.columns(everything), again.columns(everything), strict=True):
        assert one.tolist() == other.tolist()


def test_columns_follow_the_asked_order(source, vocabulary, tmp_path):
    table = open_tokens(open_dialogues(source, tmp_path), vocabulary, tmp_path)
    short, long = int(table.lengths.argmin()), int(table.lengths.argmax())
    ids, roles, turns, lengths = table.columns([long, short, long])
    alone = [table.columns([index])[0].tolist() for index in (long, short)]
    assert len(alone[0]) > len(alone[1])
    assert ids.tolist() == [*alone[0], *alone[1], *alone[0]]
    assert lengths.tolist() == [len(alone[0]), len(alone[1]), len(alone[0])]
    assert len(ids) == len(roles) == len(turns)
    assert table.lengths[long] == len(alone[0])


def test_what_tokens_are_made_of_is_their_key(source, vocabulary, gpt2_vocabulary, tmp_path, jsonl_folder):
    table = open_dialogues(source, tmp_path)
    other = tables.open_dialogues(source, "validation", tmp_path, lambda line: None)
    made = [
        open_tokens(table, vocabulary, tmp_path),
        open_tokens(table, vocabulary, tmp_path, max_len=25),
        open_tokens(table, vocabulary, tmp_path, truncation="keep_end"),
        open_tokens(table, gpt2_vocabulary, tmp_path),
        open_tokens(other, vocabulary, tmp_path),
    ]
    assert len({table.digest for table in made}) == len(made)


def test_changed_content_is_read_anew(tmp_path):
    for number in (1, 2):
        (tmp_path / "train.jsonl").write_text(json.dumps({"turns": ["a", f"b{number}"]}))
        table = open_dialogues(Counting(str(tmp_path), "", None, ""), tmp_path / "cache")
        assert table[0].turns[1].text == f"b{number}"


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(source, vocabulary, tmp_path, monkeypatch):
    parts, join = [], tables._join
    monkeypatch.setattr(tables, "_join", lambda files, path: (parts.append(len(files)), join(files, path)))
    monkeypatch.setattr(tables, "MIN_DIALOGUES_PER_WORKER", 5)
    table = open_dialogues(source, tmp_path)
    one, two = (open_tokens(table, vocabulary, tmp_path / str(count), workers=count) for count in (1, 2))
    everything = np.arange(len(one))
    for first, second in zip(one.columns(everything), two.columns(everything), strict=True):
        assert first.tolist() == second.tolist()
    assert parts == [1, 2]


def test_few_dialogues_are_not_worth_a_process(source, vocabulary, tmp_path, monkeypatch):
    parts = []
    monkeypatch.setattr(tables, "_join", lambda files, path: (parts.append(len(files)), files[0].rename(path)))
    open_tokens(open_dialogues(source, tmp_path), vocabulary, tmp_path, workers=8)
    assert parts == [1]


def test_a_fault_while_reading_leaves_nothing_behind(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"turns": ["a", "b"]}\nbroken\n')
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"train.jsonl:2: not JSON"):
        open_dialogues(Counting(str(tmp_path), "", None, ""), cache)
    assert list(cache.iterdir()) == []


def test_a_fault_while_tokenising_leaves_nothing_behind(source, vocabulary, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken")

    table = open_dialogues(source, tmp_path)
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(tables, "_tokenise", broken)
        with pytest.raises(RuntimeError, match="broken"):
            open_tokens(table, vocabulary, tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert len(open_tokens(table, vocabulary, tmp_path)) >= len(table)


def test_a_full_disk_says_what_to_pass_and_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tables.ArrowWriter, "finalize", full)
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"cache is full \(No space left on device\): .*pass data.cache_dir=<folder>"):
        open_dialogues(source, cache)
    assert list(cache.iterdir()) == []


def test_the_first_of_two_that_publish_the_same_wins(tmp_path):
    folder = tmp_path / "cache" / "one"
    with tables.published(folder) as aside:
        (aside / "file").write_text("second")
        with tables.published(folder) as earlier:
            (earlier / "file").write_text("first")
    assert (folder / "file").read_text() == "first"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_very_long_dialogue_keeps_its_turn_numbers(vocabulary, tmp_path):
    count = 2**15 + 2
    (tmp_path / "train.jsonl").write_text(json.dumps({"turns": ["a"] * count}))
    table = open_dialogues(DailyDialog(str(tmp_path), "", None, ""), tmp_path / "cache")
    tokens = open_tokens(table, vocabulary, tmp_path / "cache", max_len=4, truncation="keep_end")
    assert tokens.columns([0])[2].tolist() == [count - 1] * 4


def test_no_dialogue_left_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"turns": ["a"]}\n{"turns": ["a", " "]}\n')
    with pytest.raises(DataError, match=r"no dialogue is left in .*train.jsonl: each needs at least two turns"):
        open_dialogues(Counting(str(tmp_path), "", None, ""), tmp_path / "cache")


def test_a_cache_that_cannot_be_written_says_what_to_pass(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*pass data.cache_dir=<folder>"):
        open_dialogues(source, tmp_path / "file" / "cache")


def test_a_vocabulary_is_learned_from_a_bounded_number_of_dialogues(source, dialogue_turns, tmp_path, monkeypatch):
    table = open_dialogues(source, tmp_path)
    monkeypatch.setattr(tables, "MAX_LEARNED_FROM", 10)
    assert list(table.texts()) == [text for turns in dialogue_turns[:36:4] for text in turns]
