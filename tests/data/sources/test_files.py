"""Files as they lie: kinds by content, folders and patterns, bounds on what is unpacked, and the hub from a local folder."""

import gzip
import io
import json
import pickle
import sqlite3
import subprocess
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.config.data_names import ROW_FIELDS
from dialog_trainer.data.sources import Files, Hub, json_values, reading, tables, unpacking
from dialog_trainer.data.sources.file_kinds import find_kind
from dialog_trainer.data.sources.json_values import JsonStream
from dialog_trainer.data.sources.row_plans import KNOWN_KEYS
from dialog_trainer.errors import DataError

ROW = b'{"turns": ["a", "b"]}'


def files(path, **options):
    return Files(str(path), str(path), None, 0.1, **options)


def texts(source, split="train"):
    return [[turn.text for turn in turns] for _, turns in source.dialogues(split)]


def zip_file():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train.jsonl", ROW)
    return buffer.getvalue()


def arrow_file():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([])):
        pass
    return sink.getvalue().to_pybytes()


def sqlite_file(folder):
    connection = sqlite3.connect(folder / "some.db")
    connection.execute("create table a (b)")
    connection.commit()
    connection.close()
    return (folder / "some.db").read_bytes()


OTHER_KINDS = [
    (zip_file(), "is a zip archive"), (pickle.dumps([("a", "b")]), "is a pickle, which may hold code"), (arrow_file(), "is an Arrow file"),
    (b"BZh91AY", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (gzip.compress(gzip.compress(ROW, mtime=0), mtime=0), "is compressed twice"),
    (b"\xd0\xcf\x11\xe0", "old office document"), (b"%PDF-1.7", "PDF"), (b"GGUF\x03", "weights of a model"),
    (ROW.decode().encode("utf-16"), "is text in UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    (ROW.decode().encode("utf-16-le"), "is text in UTF-16"), (ROW.decode().encode("utf-32"), "is text in UTF-32"),
    (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"), (b"\n<!DOCTYPE html>", "is HTML or XML"),
    (b"Hi . __eou__ Hello . __eou__\n", "data=dailydialog"), (b"Hi there", "is neither JSON, CSV nor parquet; it begins with 'Hi there'"),
    (b"abc\x00def\x01ghi", "is not a text"), (b"x" * 257 + b"ustar", "is a tar archive"), (b"", "is empty"), (b" \n\n", "is empty"),
    (b"[]", "is empty"), (b"PAR1 no", "cannot be read as parquet"), (b"\x1f\x8b\x08", "cannot be unpacked"), (b"\x28\xb5\x2f\xfdx", "cannot be unpacked"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), OTHER_KINDS)
@pytest.mark.parametrize("name", ["own.jsonl", "own.json"])
def test_another_kind_of_file_is_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} .*{reason}"):
        texts(files(tmp_path / name))


def test_a_database_is_named(tmp_path):
    (tmp_path / "own.json").write_bytes(sqlite_file(tmp_path))
    with pytest.raises(DataError, match="is an SQLite database"):
        texts(files(tmp_path / "own.json"))


# Content, and its dialogues: in a file of any JSON suffix.
DOCUMENTS = [
    (ROW, 1), (ROW + b"\n" + ROW, 2), (b"\xef\xbb\xbf" + ROW + b"\r\n\r\n" + ROW + b"\r\n", 2), (b"[" + ROW + b"]", 1),
    (b"[\n  " + ROW + b",\n  " + ROW + b"\n]\n", 2), (json.dumps(json.loads(ROW), indent=1).encode(), 1),
    (b'{"data": [' + ROW + b"," + ROW + b'], "version": 2}', 2), (b'{"x": ' + ROW + b', "y": ' + ROW + b"}", 2),
    (b'{"x": ["a", "b"], "y": ["c", "d"]}', 2), (b'[["a", "b"], ["c", "d"]]', 2), (b'["a", "b"]\n["c", "d"]\n', 2),
    (b'{"x": [{"speaker": "user", "text": "a"}], "y": [{"speaker": "gpt", "text": "b"}]}', 2),
    (b'{"conversations": [' + ROW + b"]}", 1), (b'{\n"turns":\n["a", "b"]\n}\n{\n"turns": ["c", "d"]}', 2), (ROW + b"\r" + ROW, 2),
]  # fmt: skip


@pytest.mark.parametrize(("content", "count"), DOCUMENTS)
@pytest.mark.parametrize("name", ["own.jsonl", "own.json", "own", "own.json.gz"])
def test_json_is_read_in_every_layout(tmp_path, name, content, count):
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert len(texts(files(tmp_path / name))) == count


@pytest.mark.parametrize("container", ["array", "object", "objects"])
def test_rows_of_a_document_above_the_bound_are_read_one_by_one(tmp_path, monkeypatch, container):
    for module in (reading, json_values):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 2**16)
    row = json.dumps({"turns": ["a" * 1000, "b"]})
    rows = ",\n".join([row] * 200)
    numbered = ",".join(f'"{n}": {row}' for n in range(200))
    content = {"array": f"[{rows}]", "object": f'{{"n": 1, "data": [{rows}]}}', "objects": f"{{{numbered}}}"}[container]
    (tmp_path / "own.json").write_text(content)
    assert len(texts(files(tmp_path / "own.json"))) == 200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" + ROW + b",\n 3]", "own.json:2: expected an object; found a number"),
        (b"[" + ROW + b"\n" + ROW + b"]", r"own.json:2: not JSON: expected ',' or '\]'; found \{"),
        (b"[" + ROW + b",\n" + ROW, "own.json:2: not JSON: expected ',' or .*; found the end of the file"),
        (b"[" + ROW + b"] x", "own.json:1: something follows the end of the list"),
        (b"[\n" + b"[" * 200_000, "own.json:2: nested too deeply"),
        (b'[\n"\xff"]', r"own.json:[12]: a byte \(0xff\) after this line is not UTF-8"),
        (b"[" + b"1" * 5000 + b"]", "Exceeds the limit"),
        (b'[{"turns": ["' + b"a" * 2**20 + b'"]}]', "longer than 1 MiB; divide it into shorter"),
        (
            b'{"a": [' + ROW + b'], "b": [' + ROW + b"]}",
            "holds several lists: 'a', 'b'; write each into a file of its own",
        ),
        (b'{"a": 1, "b": "x"}', "found the keys 'a', 'b'"),
        (b"{'turns': ['a', 'b']}\n", "this is Python, not JSON: write it with json.dumps"),
        (b"[" + ROW + b",\n]\n", r"own.json:2: not JSON: Expecting value; remove the comma before '\]'"),
        (b'{"turns": ["a", "b",]}\n' + ROW, r"own.json:1: not JSON: Expecting value .*; remove the comma before '\]'"),
        (b'\n{"a": [' + ROW + b'],\n"b": [' + ROW + b"]}", "own.json:2: holds several lists"),
        (ROW + b'\n{"turns": ["a", "b"]\n', "own.json:2: not JSON: Expecting ',' delimiter at column 21"),
        (ROW + b",\n" + ROW + b",\n", "own.json:1: not JSON: Extra data at column 22; a line ends without a comma"),
    ],
)
def test_damage_to_a_document_is_named_with_its_line(tmp_path, monkeypatch, content, reason):
    for module in (reading, json_values):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 2**20)
    (tmp_path / "own.json").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        texts(files(tmp_path / "own.json"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]), st.integers(1, 9))
def test_a_stream_gives_what_json_gives_whatever_the_chunks(values, indent, chunk):
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(chunk)

    stream = JsonStream(Slow(json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")))
    stream.take("[")
    assert list(stream.elements()) == values
    assert stream.peek() == ""


def packed(content, suffix):
    if suffix == ".gz":
        return gzip.compress(content)
    return pa.compress(content, codec="zstd", asbytes=True)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(
    "content",
    [b'{"turns": ["' + b"a" * 2**24, (ROW + b"\n") * 2**18, b"[" + b" " * 2**24],
    ids=["line", "lines", "json"],
)
def test_a_bomb_is_refused_in_bounded_memory(tmp_path, monkeypatch, content, suffix):
    monkeypatch.setattr(unpacking, "MIN_UNPACKED_BYTES", 2**17)
    monkeypatch.setattr(unpacking, "MAX_RATIO", 5)
    for module in (reading, json_values):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 2**21)
    path = tmp_path / f"own.jsonl{suffix}"
    path.write_bytes(packed(content, suffix))
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"own.jsonl{suffix} unpacks to more than 5 times its size|longer than 2 MiB"):
        texts(files(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_ends_too_early_is_named(tmp_path, suffix):
    content = b"".join(json.dumps({"turns": [f"{n * 7919 % 1000}", "b"]}).encode() + b"\n" for n in range(2000))
    whole = packed(content, suffix)
    path = tmp_path / f"own.jsonl{suffix}"
    path.write_bytes(whole)
    assert len(texts(files(path))) == 2000
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"own.jsonl{suffix}"):
        texts(files(path))


TABLES = [
    (b"question,answer\na,b\n", ["a", "b"]), (b"question;answer\r\na;b\r\n", ["a", "b"]), (b"question\tanswer\na\tb, c\n", ["a", "b, c"]),
    (b'\xef\xbb\xbfquestion,answer\n\n"a ""x""\nz","b, c"\n', ['a "x"\nz', "b, c"]), (b"question,answer\na,\n", ["a", ""]),
    (b'messages\n"[{""role"": ""user"", ""content"": ""a""}]"\n', ["a"]), (b"id,question,answer,weight\n1,a,b,0\n", ["a", "b"]),
    (b"\xef\xbb\xbfsep=;\r\nquestion;answer\r\na, b;c\r\n", ["a, b", "c"]), (b"question|answer\na,b|c;d\n", ["a,b", "c;d"]),
    (b",question,answer,,\n0,a,b,,\n", ["a", "b"]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), TABLES)
def test_tables_are_read_with_their_header(tmp_path, content, expected):
    (tmp_path / "own.csv").write_bytes(content)
    assert texts(files(tmp_path / "own.csv")) == [expected]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"question,answer\na,b,c\n",
            "own.csv:2: has 3 cells, and the header, its first line, 2; put a text that holds ','",
        ),
        (b"sep=;\nquestion;answer\na;b\nc\n", "own.csv:4: has 1 cells"),
        (b'question,answer\n"a" b,c\n', "own.csv:2: not CSV: ',' expected after '\"'"),
        (b'question,answer\n"a,b\nc,d\n', "own.csv:3: not CSV: unexpected end of data"),
        (b"question,question\na,b\n", "the header has 'question' twice"),
        (b"Hi there ,Hello\na,b\n", r"own.csv:2: expected a list under turns.*found the keys 'Hi there', 'Hello'"),
        (b"question,answer\na,\xff\n", r"own.csv:2: byte 3 of the line \(0xff\) is not UTF-8"),
        (b'question,answer\n"' + b'a\n"",' * 2**17, "a record is longer than 0.0625 MiB: is a quote not closed"),
        (
            b"question,answer\ra,b\r",
            r"own.csv:1: not CSV: lines end with carriage returns alone; write line feeds: tr ",
        ),
        (b"question,answer\n", "own.csv is empty"),
    ],
)
def test_damage_to_a_table_is_named_with_its_line(tmp_path, monkeypatch, content, reason):
    for module in (reading, tables):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 2**16)
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        texts(files(tmp_path / "own.csv"))


def test_parquet_is_read_without_its_images(tmp_path):
    table = pa.table({"prompt": ["a", "c"], "response": ["b", None], "image": [b"\xff", b""], "score": [1.5, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "own.parquet")
    assert texts(files(tmp_path / "own.parquet")) == [["a", "b"], ["c", ""]]
    (tmp_path / "own.parquet.gz").write_bytes(gzip.compress((tmp_path / "own.parquet").read_bytes()))
    assert texts(files(tmp_path / "own.parquet.gz")) == [["a", "b"], ["c", ""]]
    pyarrow.parquet.write_table(pa.table({"prompt": [1], "response": ["b"]}), tmp_path / "own.parquet")
    with pytest.raises(DataError, match=r"own.parquet row 1: prompt should be a string; found a number"):
        texts(files(tmp_path / "own.parquet"))


def test_a_parquet_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MIN_PARQUET_BYTES", 2**16)
    pyarrow.parquet.write_table(
        pa.table({"turns": [["a" * 2**24, "b"]]}), tmp_path / "own.parquet", use_dictionary=False, compression="zstd"
    )
    with pytest.raises(DataError, match=r"own.parquet unpacks to more than 1000 times its size"):
        texts(files(tmp_path / "own.parquet"))


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"turns": [name, "b"]}))


# Files in a folder; those of each split.
FOLDERS = [
    (["train.jsonl", "valid.jsonl", "test.jsonl"], (["train.jsonl"], ["valid.jsonl"], ["test.jsonl"])),
    (["a/train-0.json", "a/train-1.json", "a/dev.json"], (["a/train-0.json", "a/train-1.json"], ["a/dev.json"], None)),
    (["train/1.json", "train/2.json", "val/1.json", "README.md", ".x.json"], (["train/1.json", "train/2.json"], ["val/1.json"], None)),
    (["part1.jsonl", "part2.json", "dataset_info.json"], (["part1.jsonl", "part2.json"], ..., None)),
    (["only_train.jsonl"], (["only_train.jsonl"], ..., None)),
]  # fmt: skip


@pytest.mark.parametrize(("names", "expected"), FOLDERS)
def test_the_files_of_a_folder_have_their_split(tmp_path, names, expected):
    write(tmp_path, *names)
    source = Files(str(tmp_path), None, None, 0.5)
    for split, wanted in zip(("train", "validation", "test"), expected, strict=True):
        if wanted is None:
            with pytest.raises(DataError, match=f"there is no {split} data: pass data.{split}_data_path="):
                source.describe(split)
        elif wanted is ... or expected[1] is ...:
            assert "held out" in source.describe(split)
        else:
            assert [turns[0] for turns in texts(source, split)] == wanted


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["train.jsonl", "eval.jsonl", "more/x.json"], " (without eval.jsonl, x.json: of no split by their names)"),
        (["train.jsonl", "test.jsonl"], ""),
        (["a.jsonl", "b.jsonl"], ""),
    ],
)
def test_files_of_no_split_are_named(tmp_path, names, note):
    write(tmp_path, *names)
    place = f"{tmp_path} (2 files)" if "a.jsonl" in names else str(tmp_path / "train.jsonl")
    assert files(tmp_path).describe("train") == place + note


def test_the_command_that_converts_a_file_can_be_typed(tmp_path):
    (tmp_path / "my own.csv").write_bytes("question\tanswer\r\nGrüße\tb\r\n".encode("utf-16"))
    with pytest.raises(DataError) as error:
        texts(files(tmp_path / "my own.csv"))
    subprocess.run(str(error.value).partition("convert it: ")[2], shell=True, check=True, cwd=tmp_path)
    assert texts(files(tmp_path / "utf8_my own.csv")) == [["Grüße", "b"]]


def test_ids_of_several_files_are_unique_and_the_digest_follows_the_content(tmp_path):
    write(tmp_path, "a/x.json", "b/x.json")
    source = files(tmp_path / "*" / "x.json")
    assert [identifier for identifier, _ in source.dialogues("train")] == ["a/x.json:1", "b/x.json:1"]
    before = source.digest("train")
    assert before != files(tmp_path / "a").digest("train")
    assert before != files(tmp_path / "*" / "x.json", roles={"gpt": "user"}).digest("train")
    write(tmp_path, "c/x.json")
    assert files(tmp_path / "*" / "x.json").digest("train") != before


def test_a_folder_without_rows_says_what_it_has(tmp_path):
    (tmp_path / "data.zip").touch()
    with pytest.raises(DataError, match=r"has no file of dialogues \(.jsonl, .*; it has data.zip"):
        texts(files(tmp_path))


@pytest.fixture
def hub_folder(tmp_path):
    for name, rows in (("train_sft", [["a", "b"]] * 40), ("test_sft", [["c", "d"]]), ("other", [["e", "f"]])):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"dialog": turns, "id": 1}) + "\n" for turns in rows)
        )
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name in ("train_sft", "test_sft", "other"))
        + "---\n"
    )
    return str(tmp_path)


def test_a_set_of_the_hub_maps_its_splits(hub_folder):
    source = Hub(hub_folder, splits={"validation": "other"})
    assert (texts(source), texts(source, "validation"), texts(source, "test")) == (
        [["a", "b"]] * 40,
        [["e", "f"]],
        [["c", "d"]],
    )
    assert source.parser.unread() == {"id": 1}
    assert source.describe("validation") == f"{hub_folder}, split other"
    with pytest.raises(
        DataError, match=r"data.splits.test: .* has no split 'test_stf'; did you mean 'test_sft'\? It has train_sft,"
    ):
        texts(Hub(hub_folder, splits={"test": "test_stf"}), "test")


def test_a_set_without_a_validation_split_holds_a_part_out(hub_folder):
    source = Hub(hub_folder, validation_share=0.999)
    assert texts(source) + texts(source, "validation") == [["a", "b"]] * 40
    assert "held out" in source.describe("validation")
    assert source.digest("train") != source.digest("validation")


def test_the_fields_of_columns_are_those_that_rows_have():
    assert set(ROW_FIELDS) == {*KNOWN_KEYS, "weight"}


def test_kind_needs_no_suffix(tmp_path):
    assert find_kind(tmp_path / "x", ROW + b"\n" + ROW) == "jsonl"
    assert find_kind(tmp_path / "x", b"[" + ROW) == "json"
