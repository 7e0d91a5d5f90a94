"""The sources: what they read, and the errors that they name."""

import io
import json
import pickle
import zipfile

import pyarrow as pa
import pyarrow.parquet
import pytest

from dialog_trainer.data.sources import Jsonl, parsing, reading
from dialog_trainer.data.sources.chitchat import ChitChat
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.errors import DataError
from dialog_trainer.types import Role


def jsonl_source(path, validation=None, test=None, share=0.25):
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
        (b'{"turns": ["' + b"a" * 2**20 + b'"]}', "longer than 1 MiB; a line holds one dialogue: divide it"),
        (b'{"turns": [' + b"{}," * 100_000 + b"{}]}", "has 100,001 turns, more than 100,000; divide it"),
        (
            b'{"turns": ["a", {"text": "b", "' + b"weight" * 100_000 + b'": 1}, "c", 3]}',
            r"turns\[3\] should be a string",
        ),
    ],
    ids=["json", "type", "utf8", "surrogate", "deep", "integer", "long", "many turns", "long key"],
)
def test_a_bad_line_is_named_with_its_place(tmp_path, monkeypatch, line, reason):
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 2**20)
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'{"turns": ["a", "b"]}\n' + line + b"\n")
    with pytest.raises(DataError, match=rf"own.jsonl:2: .*{reason}"):
        list(jsonl_source(path, validation=path).dialogues("train"))


@pytest.mark.parametrize("line", [b"{}", b'{"turns": ["\xff", "b"]}'])
def test_bad_lines_are_counted_and_those_alike_reported_together(tmp_path, line, monkeypatch):
    path = tmp_path / "own.jsonl"
    other = [b'{"turns": ["a", {"text": "b", "weight": -%d}]}\n' % number for number in range(1, 13)]
    path.write_bytes(b'{"turns": ["a", "b"]}\n' + (line + b"\n") * 50 + b"".join(other))
    with pytest.raises(DataError) as error:
        list(jsonl_source(path, validation=path).dialogues("train"))
    lines = str(error.value).splitlines()
    assert lines[0] == "rows that are not dialogues: 62; none can be skipped, fix or remove them:"
    assert lines[1].startswith(f"{path}:2: ")
    assert lines[1].endswith(f" (in 50 rows, the last {path}:51)")
    assert lines[2].startswith(f"{path}:52: ")
    assert lines[10].startswith(f"{path}:60: ")
    assert lines[11:] == ["and 3 rows for other reasons"]
    monkeypatch.setattr(parsing, "MAX_ROWS_AFTER_ERROR", 20)
    with pytest.raises(DataError, match=r"not dialogues: 21; .*\n(?s:.*)\n\(the rest of the data was not read\)$"):
        list(jsonl_source(path, validation=path).dialogues("train"))


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"own.jsonl is empty: expected a JSON object per line"):
        list(jsonl_source(path, validation=path).dialogues("train"))


def test_byte_order_mark_and_line_separators_in_a_text(tmp_path):
    path = tmp_path / "own.jsonl"
    turns = ["one\u2028two", "three\x85four"]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"turns": turns}, ensure_ascii=False).encode() + b"\r\n")
    assert texts(jsonl_source(path, validation=path), "train") == [turns]


def test_held_out_dialogues_are_a_partition_in_any_order(tmp_path):
    rows = [json.dumps({"turns": [f"question {index}", "answer"]}) for index in [*range(350), *range(50)]]
    forward, backward = tmp_path / "forward.jsonl", tmp_path / "backward.jsonl"
    forward.write_text("\n".join(rows))
    backward.write_text("\n".join(reversed(rows)))
    source = jsonl_source(forward)
    (train, counted), (held_out, held_out_counted) = (
        (texts(source, split), source.parser.by_position) for split in ("train", "validation")
    )
    assert (counted, held_out_counted) == (len(train), len(held_out))
    assert sorted(train + held_out) == sorted(json.loads(row)["turns"] for row in rows)
    # Copies of a dialogue are on the same side.
    assert not {turns[0] for turns in train} & {turns[0] for turns in held_out}
    assert 70 <= len(held_out) <= 130
    assert texts(jsonl_source(backward), "validation") == held_out[::-1]
    assert jsonl_source(forward).digest("train") != jsonl_source(forward).digest("validation")


@pytest.mark.parametrize(
    ("share", "split", "place"), [(1e-9, "validation", "held out by a hash"), (1 - 1e-9, "train", "")]
)
def test_a_share_that_leaves_nothing_names_the_option(tmp_path, share, split, place):
    path = tmp_path / "own.jsonl"
    path.write_text('{"turns": ["a", "b"]}')
    with pytest.raises(DataError, match=rf"{place}.* has no dialogue: pass data.validation_data_path="):
        list(jsonl_source(path, share=share).dialogues(split))


def test_given_splits_are_used_and_a_missing_one_is_named(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"turns": [name, "b"]}))
    source = jsonl_source(tmp_path / "train.jsonl", tmp_path / "validation.jsonl")
    assert texts(source, "validation") == [["validation", "b"]]
    with pytest.raises(DataError, match=r"no test data: pass data.test_data_path="):
        list(source.dialogues("test"))


def test_all_kinds_of_file_give_the_same_dialogues(tmp_path, dialogue_turns):
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


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "dailydialog.val").write_bytes(pickle.dumps([("a", "b"), Touch(str(canary))]))
    with pytest.raises(DataError, match=r"dailydialog.val is refused: it wants STACK_GLOBAL"):
        list(from_folder(tmp_path).dialogues("validation"))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no pickle", "is refused"),
        (b"", "is refused"),
        (pickle.dumps({"a": 1}), "is refused: it wants EMPTY_DICT"),
        (pickle.dumps([("a", 3)]), r"dialogue 0: turns\[1\] should be a string"),
        (pickle.dumps([3]), "dialogue 0: 'turns' should be a list; found a number"),
        (pickle.dumps(["hello", "bye"]), "dialogue 0: 'turns' should be a list; found a string"),
        (pickle.dumps([("a", b"b")]), r"dialogue 0: turns\[1\] should be a string; found bytes"),
        (b"\x8d" + b"\xff" * 8 + b"a", "is refused: .* byte count"),
    ],
)
def test_a_pickle_of_another_form_is_an_error(tmp_path, content, reason):
    (tmp_path / "dailydialog.train").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        list(from_folder(tmp_path).dialogues("train"))


def test_a_folder_without_the_split_lists_the_possible_names(tmp_path):
    with pytest.raises(
        DataError,
        match=r"no validation split: none of validation.jsonl, .*dailydialog.val exists; pass another data.path",
    ):
        list(from_folder(tmp_path).dialogues("validation"))


def damaged_zip(kind):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "else" if kind == "other member" else "train/dialogues_train.txt", "a __eou__ b __eou__\n" * 99
        )
    content = bytearray(buffer.getvalue())
    directory = content.rindex(b"PK\x01\x02")
    if kind == "stream":
        content[30 + len("train/dialogues_train.txt")] = 0xFF  # the first block: of a kind that does not exist
    elif kind == "encrypted":
        content[6], content[directory + 8] = 1, 1
    elif kind == "method":
        content[8], content[directory + 10] = 99, 99
    return bytes(content) if kind != "no zip" else b"PK"


@pytest.mark.parametrize("kind", ["no zip", "other member", "stream", "encrypted", "method"])
def test_a_damaged_zip_is_named(tmp_path, kind):
    (tmp_path / "train.zip").write_bytes(damaged_zip(kind))
    with pytest.raises(DataError, match=r"train.zip does not hold train/dialogues_train.txt"):
        list(from_folder(tmp_path).dialogues("train"))


@pytest.fixture
def parquet_folder(tmp_path, dialogue_turns):
    """Parquet files of the shape of the hub's converted copy."""
    for split, part in (("train", dialogue_turns[:5]), ("validation", dialogue_turns[5:7])):
        table = pa.table({"dialog": part, "act": [[0] * len(turns) for turns in part], "name": ["a"] * len(part)})
        (tmp_path / split).mkdir()
        pyarrow.parquet.write_table(table, tmp_path / split / "0000.parquet")
    return tmp_path


def test_parquet_of_the_hub(parquet_folder, dialogue_turns, monkeypatch, tmp_path_factory):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    source = DailyDialog(None, str(parquet_folder), None, "dialog")
    assert texts(source, "train") == dialogue_turns[:5]
    assert texts(source, "validation") == dialogue_turns[5:7]
    with pytest.raises(
        DataError, match=r"there is no key 'utterances'; The keys are 'dialog', 'act', 'name'.*data.hub_column"
    ):
        list(DailyDialog(None, str(parquet_folder), None, "utterances").dialogues("train"))
    for column, reason in (("act", r"act\[0\] should be a string"), ("name", "'name' should be a list")):
        with pytest.raises(DataError, match=rf"split train, row 0: {reason}.*data.hub_column"):
            list(DailyDialog(None, str(parquet_folder), None, column).dialogues("train"))
    digest = source.digest("train")
    pyarrow.parquet.write_table(pa.table({"dialog": [["x", "y"]]}), parquet_folder / "train/0000.parquet")
    assert source.digest("train") != digest


def test_an_unreachable_hub_names_the_options():
    with pytest.raises(DataError, match=r"nobody/nothing could not be loaded .*data=chitchat.*data.path="):
        list(DailyDialog(None, "nobody/nothing", "main", "dialog").dialogues("train"))


@pytest.mark.slow
def test_chitchat_has_fixed_splits_and_alternating_speakers():
    source = ChitChat()
    found = {split: dict(source.dialogues(split)) for split in ("train", "validation", "test")}
    sizes = {"train": 3623, "validation": 205, "test": 190}
    assert {split: len(dialogues) for split, dialogues in found.items()} == sizes
    assert len(set().union(*found.values())) == sum(sizes.values())
    raw = json.loads(source.path.read_text(encoding="utf-8"))
    for identifier, turns in found["test"].items():
        assert [turn.role for turn in turns] == [Role.ASSISTANT if n % 2 else Role.USER for n in range(len(turns))]
        messages = [message for group in raw[identifier]["messages"] for message in group]
        assert len({message["sender"] for message in messages}) == 2
        # Nothing is lost or moved when consecutive messages of one speaker are merged.
        assert " ".join(turn.text for turn in turns).split() == " ".join(m["text"] for m in messages).split()


def test_kinds_of_dailydialog_agree(real_data):
    folder = real_data / "dailydialog"
    counts = {"train": (11118, 87171), "validation": (1000, 8069), "test": (1000, 7740)}
    ours = {split: texts(from_folder(folder), split) for split in counts}
    for split, (dialogues, turns) in counts.items():
        assert (len(ours[split]), sum(map(len, ours[split]))) == (dialogues, turns)
        assert texts(from_folder(folder / "official"), split) == ours[split]
    # The pickle differs from the text in one word.
    pickled = {split: texts(from_folder(folder / "original_pickle"), split) for split in ("validation", "test")}
    assert pickled["validation"] == ours["validation"]
    pairs = zip(pickled["test"], ours["test"], strict=True)
    assert [index for index, (theirs, own_turns) in enumerate(pairs) if theirs != own_turns] == [45]
