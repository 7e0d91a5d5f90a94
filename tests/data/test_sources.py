import json
import pickle
import zipfile

import pyarrow as pa
import pyarrow.parquet
import pytest

from dialog_trainer.data import sources
from dialog_trainer.data.sources import ChitChat, DailyDialog, Jsonl
from dialog_trainer.errors import DataError
from dialog_trainer.records import Role


def own(path, validation=None, test=None, share=0.25):
    return Jsonl(str(path), validation and str(validation), test and str(test), share)


def from_folder(folder):
    return DailyDialog(str(folder), "none/none", None, "dialog")


def texts(source, split):
    return [[turn.text.strip() for turn in turns] for _, turns in source.dialogues(split)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"turns": ["a", "b"]', "not JSON: Expecting"),
        (b'{"turns": 3}', "'turns' should be a list; found a number"),
        (b'{"turns": ["a", "\xff"]}', r"byte 18 of the line \(0xff\) is not UTF-8; save the file as UTF-8"),
        (b'{"turns": ["a", "\\ud83d"]}', "lone surrogate"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"turns": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
        (b'{"turns": ["' + b"a" * 300 + b'"]}', "longer than 0 MiB; a line holds one dialogue"),
    ],
    ids=["json", "type", "utf8", "surrogate", "deep", "integer", "long"],
)
def test_a_faulty_line_is_named_with_its_place(tmp_path, monkeypatch, line, reason):
    if b"a" * 300 in line:
        monkeypatch.setattr(sources, "MAX_LINE_BYTES", 200)
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'{"turns": ["a", "b"]}\n' + line + b"\n")
    with pytest.raises(DataError, match=rf"own.jsonl:2: .*{reason}"):
        list(own(path, validation=path).dialogues("train"))


def test_faulty_lines_are_told_together_and_not_without_end(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"turns": ["a", "b"]}\n' + "{}\n" * 50)
    with pytest.raises(DataError) as error:
        list(own(path, validation=path).dialogues("train"))
    lines = str(error.value).splitlines()
    assert [f":{number}:" in line for number, line in enumerate(lines[1:11], start=2)] == [True] * 10
    assert lines[11:] == ["(the rest of the file was not read)"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_named(tmp_path, content):
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"own.jsonl is empty: expected a JSON object a line"):
        list(own(path, validation=path).dialogues("train"))


def test_a_byte_order_mark_and_line_separators_inside_a_text_are_read(tmp_path):
    path = tmp_path / "own.jsonl"
    turns = ["one\u2028two", "three\x85four"]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"turns": turns}, ensure_ascii=False).encode() + b"\r\n")
    assert texts(own(path, validation=path), "train") == [turns]


def test_the_held_out_share_is_disjoint_complete_and_independent_of_order(tmp_path):
    rows = [json.dumps({"turns": [f"question {index}", "answer"]}) for index in range(400)]
    forward, backward = tmp_path / "forward.jsonl", tmp_path / "backward.jsonl"
    forward.write_text("\n".join(rows))
    backward.write_text("\n".join(reversed(rows)))
    parts = {split: {t[0] for t in texts(own(forward), split)} for split in ("train", "validation")}
    assert parts["train"] | parts["validation"] == {f"question {index}" for index in range(400)}
    assert not parts["train"] & parts["validation"]
    assert 70 <= len(parts["validation"]) <= 130
    assert {t[0] for t in texts(own(backward), "validation")} == parts["validation"]
    assert own(forward).digest("train") != own(forward).digest("validation")


def test_given_splits_are_used_and_a_missing_test_split_is_named(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"turns": [name, "b"]}))
    source = own(tmp_path / "train.jsonl", tmp_path / "validation.jsonl")
    assert texts(source, "validation") == [["validation", "b"]]
    with pytest.raises(DataError, match=r"no test data: pass data.test_data_path="):
        list(source.dialogues("test"))


def test_official_text_zip_and_pickle_give_the_same_dialogues(tmp_path, dialogue_turns):
    official = "".join(" __eou__ ".join(turns) + " __eou__\n" for turns in dialogue_turns)
    for kind in ("text", "nested", "zip", "pickle", "jsonl"):
        (tmp_path / kind / "test").mkdir(parents=True)
    (tmp_path / "text/dialogues_test.txt").write_text(official)
    (tmp_path / "nested/test/dialogues_test.txt").write_text(official)
    with zipfile.ZipFile(tmp_path / "zip/test.zip", "w") as archive:
        archive.writestr("test/dialogues_test.txt", official)
    (tmp_path / "pickle/dailydialog.test").write_bytes(pickle.dumps([tuple(turns) for turns in dialogue_turns]))
    (tmp_path / "jsonl/test.jsonl").write_text("".join(json.dumps({"turns": t}) + "\n" for t in dialogue_turns))
    for kind in ("text", "nested", "zip", "pickle", "jsonl"):
        assert texts(from_folder(tmp_path / kind), "test") == dialogue_turns


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_that_runs_code_is_refused_and_does_not(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "dailydialog.val").write_bytes(pickle.dumps([("a", "b"), Touch(str(canary))]))
    with pytest.raises(DataError, match=r"dailydialog.val is refused: it wants to load .*open"):
        list(from_folder(tmp_path).dialogues("validation"))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no pickle", "is refused"),
        (b"", "is refused"),
        (pickle.dumps({"a": 1}), "holds a dict; expected a list"),
        (pickle.dumps([("a", 3)]), r"dialogue 0: turns\[1\] should be a string"),
        (pickle.dumps([3]), "dialogue 0:"),
    ],
)
def test_a_pickle_of_something_else_is_named(tmp_path, content, reason):
    (tmp_path / "dailydialog.train").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        list(from_folder(tmp_path).dialogues("train"))


def test_a_folder_without_the_split_names_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no validation split: none of validation.jsonl, .*dailydialog.val is there"):
        list(from_folder(tmp_path).dialogues("validation"))


def test_a_broken_zip_is_named(tmp_path):
    (tmp_path / "train.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"train.zip does not hold train/dialogues_train.txt"):
        list(from_folder(tmp_path).dialogues("train"))


@pytest.fixture
def parquet_folder(tmp_path, dialogue_turns):
    """Parquet files of the shape of the hub's converted copy."""
    for split, part in (("train", dialogue_turns[:5]), ("validation", dialogue_turns[5:7])):
        table = pa.table({"dialog": part, "act": [[0] * len(turns) for turns in part]})
        (tmp_path / split).mkdir()
        pyarrow.parquet.write_table(table, tmp_path / split / "0000.parquet")
    return tmp_path


def test_parquet_of_the_hubs_shape(parquet_folder, dialogue_turns, monkeypatch, tmp_path_factory):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    source = DailyDialog(None, str(parquet_folder), None, "dialog")
    assert texts(source, "train") == dialogue_turns[:5]
    assert texts(source, "validation") == dialogue_turns[5:7]
    with pytest.raises(DataError, match=r"has no column 'utterances': pass data.hub_column, one of dialog, act"):
        list(DailyDialog(None, str(parquet_folder), None, "utterances").dialogues("train"))
    digest = source.digest("train")
    pyarrow.parquet.write_table(pa.table({"dialog": [["x", "y"]]}), parquet_folder / "train/0000.parquet")
    assert source.digest("train") != digest


def test_a_hub_that_cannot_be_had_says_what_to_pass():
    with pytest.raises(DataError, match=r"nobody/nothing could not be loaded .*data.path=.*data=chitchat"):
        list(DailyDialog(None, "nobody/nothing", "main", "dialog").dialogues("train"))


def test_chitchat_is_split_for_good():
    source = ChitChat()
    ids = {split: {identifier for identifier, _ in source.dialogues(split)} for split in sources.SPLITS}
    assert {split: len(of_split) for split, of_split in ids.items()} == {"train": 3623, "validation": 205, "test": 190}
    assert len(set.union(*ids.values())) == 3623 + 205 + 190
    for _, turns in source.dialogues("test"):
        assert [turn.role for turn in turns] == [Role.ASSISTANT if n % 2 else Role.USER for n in range(len(turns))]


def test_the_four_kinds_of_dailydialog(real_data):
    folder = real_data / "dailydialog"
    counts = {"train": (11118, 87171), "validation": (1000, 8069), "test": (1000, 7740)}
    for split, (dialogues, turns) in counts.items():
        for kind in (folder, folder / "official"):
            found = texts(from_folder(kind), split)
            assert (len(found), sum(map(len, found))) == (dialogues, turns)
    # The pickle differs from the text in one word; the official files in their marks.
    pickled, ours = texts(from_folder(folder / "original_pickle"), "test"), texts(from_folder(folder), "test")
    assert [index for index, (a, b) in enumerate(zip(pickled, ours, strict=True)) if a != b] == [45]
    assert texts(from_folder(folder / "original_pickle"), "validation") == texts(from_folder(folder), "validation")
