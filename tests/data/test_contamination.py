"""Contamination: held-out dialogues that are also in the training split."""

import dataclasses
import json
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data import contamination
from dialog_trainer.data.contamination import Contamination, Overlap, find_contamination
from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sources import Jsonl

KINDS = ("exact", "normalized", "near")


class Dataset(SimpleNamespace):
    """As much of a `DialogueDataset` as is read: the texts."""

    def __len__(self) -> int:
        return len(self.rows.table)


def dataset(*dialogues: list[str]) -> Dataset:
    return Dataset(rows=SimpleNamespace(table=pa.table({"texts": pa.array(dialogues, pa.list_(pa.string()))})))


def kinds(one: list[str], other: list[str]) -> set[str]:
    """The kinds of overlap of two dialogues."""
    found = find_contamination(dataset(one), dataset(other))
    same, different = Overlap((0,), (0,)), Overlap((), ())
    assert all(getattr(found, kind) in (same, different) for kind in KINDS)
    return {kind for kind in KINDS if getattr(found, kind) == same}


def numbered(count: int, first: int = 0) -> str:
    """`count` different words."""
    return " ".join(f"w{number}" for number in range(first, first + count))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (["Hi .", "Hello !"], ["Hi .", "Hello !"], {"exact", "normalized", "near"}),
        (["Hi .", "Hello !"], ["hi.", "HELLO"], {"normalized", "near"}),
        (["I ' m here .", "Good_one"], ["I'm here.", "good one"], {"normalized", "near"}),
        # Where words and turns end does not matter, which words they are does.
        (["a b", "c"], ["a", "b c"], {"normalized", "near"}),
        (["ab", "c"], ["a", "bc"], {"normalized", "near"}),
        (["a b", "c"], ["c", "a b"], set()),
        (["It costs 5 .", "Oh"], ["It costs 6 .", "Oh"], set()),
        (["Über uns", "Да"], ["über uns", "да"], {"normalized", "near"}),
        (["Über uns", "Да"], ["ber uns", "да"], set()),
        # Without a letter or digit.
        (["?!", "..."], ["?!", "..."], {"exact", "normalized", "near"}),
        (["?!", "..."], ["!?", "..."], set()),
        (["? !", "..."], ["?", "! ..."], set()),
        (["?!", "..."], ["a", "b"], set()),
    ],
)
def test_exact_and_normalized(one, other, expected):
    assert kinds(one, other) == kinds(other, one) == expected


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        (["你今天晚上去看电影吗", "我想去看电影"], ["你今天晚上去看电影吗", "我想去看电视"], True),
        (["你今天晚上去看电影吗", "我想去看电影"], ["他们明天早上坐火车", "是的"], False),
        (["วันนี้อากาศดีมาก", "ใช่แล้ว"], ["วันนี้อากาศดีมาก", "ใช่ครับ"], True),
        # n different words are n - 4 grams.
        ([numbered(8)], [numbered(6)], True),  # 2 of 4
        ([numbered(7)], [numbered(5)], False),  # 1 of 3
        ([numbered(104)], [numbered(54)], True),  # 50 of 100
        ([numbered(103)], [numbered(53)], False),  # 49 of 99
        ([numbered(14)], [numbered(12).upper() + " ."], True),
        ([numbered(7)], [numbered(7, first=1)], True),  # 2 of 4
        ([numbered(6)], [numbered(6, first=1)], False),  # 1 of 3
        # Five words in the middle take part in five grams each way.
        ([numbered(8), "here", numbered(8, 50)], [numbered(8), "there", numbered(8, 50)], False),  # 8 of 18
        ([numbered(12), "here", numbered(12, 50)], [numbered(12), "there", numbered(12, 50)], True),  # 16 of 26
        # A gram counts once; turns may cut it.
        (["x x x x x"], ["x x x x", "x x x x x"], True),
        ([numbered(4), numbered(5, 4)], [numbered(1), numbered(7, 1)], True),
        # Fewer than five words: all or nothing.
        (["w0 w1", "w2 w3"], ["w0 w1", "w2 w4"], False),
        (["w0 w1", "w2 w3"], ["w0 w1", "w2 w3 w4"], False),
        (["w0 w1 w2 w3 w4"], ["w0 w1 w2 w3"], False),
    ],
)
def test_near_copies_have_half_of_the_grams(one, other, near):
    assert kinds(one, other) == kinds(other, one) == ({"near"} if near else set())


def test_indices_are_ascending_and_unique():
    long = numbered(20)
    training = dataset(["a", "b"], [long, "end"], ["c", "d"], ["A", "b ."], [long, "end"])
    held_out = dataset([long, "END !"], ["x", "y"], [long, "the end"], ["a", "b"], ["a", "b"])
    found = find_contamination(training, held_out)
    assert found.exact == Overlap((3, 4), (0,))
    assert found.normalized == Overlap((0, 3, 4), (0, 1, 3, 4))
    assert found.near == Overlap((0, 2, 3, 4), (0, 1, 3, 4))
    assert found.num_held_out == 5
    assert found.widest() == found.near


# Few enough that a draw holds copies of every kind.
POOL = (
    ["a", "b"],
    ["A", "b ."],
    ["a b", "!"],
    ["b", "a"],
    ["?", "!"],
    ["a b c", "d e f g", "h i j k l"],
    ["A b c", "d e f g", "H I j k l m"],
    ["a b c", "d e f g", "h i j k"],
    ["a b c", "d e f g", "h i j"],
)
DIALOGUES = st.lists(st.sampled_from(POOL), max_size=6)


def compare_all_pairs(training: list[list[str]], held_out: list[list[str]]) -> Contamination:
    """Every pair compared, character by character and gram by gram."""

    def letters(texts):
        return "".join(c for c in "".join(texts).lower() if c.isalnum()) or tuple(texts)

    def grams(texts):
        spaced = "".join(c if c.isalnum() else " " for c in " ".join(texts).lower()).split()
        if 0 < len(spaced) < 5:
            return {tuple(spaced)}
        return {tuple(spaced[start : start + 5]) for start in range(len(spaced) - 4)}

    def near(one, other):
        first, second = grams(one), grams(other)
        return letters(one) == letters(other) or 2 * len(first & second) >= len(first | second) > 0

    def overlap(same):
        pairs = [(h, t) for h, one in enumerate(held_out) for t, other in enumerate(training) if same(one, other)]
        return Overlap(tuple(sorted({h for h, _ in pairs})), tuple(sorted({t for _, t in pairs})))

    return Contamination(
        overlap(lambda a, b: a == b), overlap(lambda a, b: letters(a) == letters(b)), overlap(near), len(held_out)
    )


@given(DIALOGUES, DIALOGUES)
@settings(deadline=None, max_examples=100)
def test_result_equals_comparing_all_pairs(training, held_out):
    assert find_contamination(dataset(*training), dataset(*held_out)) == compare_all_pairs(training, held_out)


@given(DIALOGUES, DIALOGUES, st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_chunk_sizes_change_nothing(training, held_out, chunk, indexed):
    expected = find_contamination(dataset(*training), dataset(*held_out))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contamination, "CHUNK", chunk)
        patch.setattr(contamination, "INDEXED_AT_ONCE", indexed)
        assert find_contamination(dataset(*training), dataset(*held_out)) == expected


@given(DIALOGUES, DIALOGUES, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_order_changes_only_the_indices(training, held_out, draw):
    found = find_contamination(dataset(*training), dataset(*held_out))
    turned = find_contamination(dataset(*held_out), dataset(*training))
    places = draw.sample(range(len(training)), len(training))
    shuffled = find_contamination(dataset(*(training[place] for place in places)), dataset(*held_out))
    for kind in KINDS:
        overlap, other, moved = (getattr(which, kind) for which in (found, turned, shuffled))
        assert (other.held_out, other.training) == (overlap.training, overlap.held_out)
        assert moved.held_out == overlap.held_out
        assert sorted(places[index] for index in moved.training) == list(overlap.training)


@given(DIALOGUES)
@settings(deadline=None, max_examples=60)
def test_a_dialogue_is_a_copy_of_itself(dialogues):
    everything = tuple(range(len(dialogues)))
    found = find_contamination(dataset(*dialogues), dataset(*dialogues))
    assert [getattr(found, kind) for kind in KINDS] == [Overlap(everything, everything)] * 3


def test_dataset_on_disk(dialogue_turns, tmp_path):
    for name, turns in (("train", dialogue_turns[:9]), ("test", dialogue_turns[5:12])):
        rows = (json.dumps({"turns": texts}) + "\n" for texts in turns)
        (tmp_path / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    source = Jsonl(str(tmp_path / "train.jsonl"), str(tmp_path / "test.jsonl"), str(tmp_path / "test.jsonl"), 0.5)
    training, held_out = (
        open_dialogues(source, split, tmp_path / "cache", lambda line: None) for split in ("train", "test")
    )
    assert find_contamination(training, held_out).exact == Overlap((0, 1, 2, 3), (5, 6, 7, 8))


def test_the_summary_is_one_line():
    overlap = Overlap((1, 2), (1, 2, 3))
    found = Contamination(Overlap((1,), (2,)), overlap, Overlap(tuple(range(1_234)), tuple(range(4_321))), 12_345)
    assert found.summary("test") == (
        "test: 1 of 12,345 dialogues are in the training split exactly, 2 after normalization, 1,234 nearly; "
        "training dialogues concerned: 4,321"
    )
    assert dataclasses.replace(found, near=None).summary("validation") == (
        "validation: 1 of 12,345 dialogues are in the training split exactly, 2 after normalization, "
        "near copies not looked for (more than 200,000 training dialogues); training dialogues concerned: 3"
    )


def test_near_copies_are_not_looked_for_in_very_large_splits(monkeypatch):
    long = numbered(20)
    training, held_out = [[long, "end"], ["a", "b"], ["c", "d"]], dataset([long, "the end"], ["A", "b"])
    monkeypatch.setattr(contamination, "MAX_COMPARED", 2)
    found = find_contamination(dataset(*training), held_out)
    assert found.near is None
    assert found.widest() == found.normalized == Overlap((1,), (1,))
    assert find_contamination(dataset(*training[:2]), held_out).near == Overlap((0, 1), (0, 1))


def test_counts_of_dailydialog(real_data):
    folder = real_data / "dailydialog"
    splits = {}
    for split in ("train", "validation", "test"):
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[split] = dataset(*([text.strip() for text in json.loads(line)["turns"]] for line in lines))
    validation, test = (find_contamination(splits["train"], splits[split]) for split in ("validation", "test"))
    known = json.loads((folder / "train_lines_in_heldout.json").read_text(encoding="utf-8"))
    names = dict(zip(KINDS, known, strict=False))  # the file spells them in its own way
    for kind, count in (("exact", 172), ("normalized", 310)):
        lines = {*getattr(validation, kind).training, *getattr(test, kind).training}
        assert sorted(lines) == known[names[kind]]
        assert len(lines) == count
    assert test.summary("test") == (
        "test: 93 of 1,000 dialogues are in the training split exactly, 151 after normalization, 261 nearly; "
        "training dialogues concerned: 305"
    )
    assert [len(getattr(validation, kind).held_out) for kind in KINDS] == [69, 123, 201]
