"""Files of strangers: bounded by their size, never run, and refused with a message that names them."""

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from dialog_trainer.data.sources import Files, Jsonl, dailydialog, pickles
from dialog_trainer.data.sources.chitchat import ChitChat
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.errors import DataError

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def read(folder, split="train"):
    return list(DailyDialog(str(folder), "", None, "").dialogues(split))


def zip_of(content, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("train/dialogues_train.txt", content)
    return buffer.getvalue()


@pytest.mark.parametrize("method", METHODS)
def test_damage_to_a_zip_is_no_other_error(tmp_path, method):
    path, random_ = tmp_path / "train.zip", random.Random(method)
    whole = zip_of("".join(f"a {random_.random()} __eou__ b __eou__\n" for _ in range(50)), method)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[random_.randrange(len(whole))] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
        with suppress(DataError):
            assert len(read(tmp_path)) == 50  # bits of the zip that mean nothing


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dailydialog, "MIN_UNZIPPED_BYTES", 2**16)
    whole = zip_of("a __eou__ b\n" * 2**14, zipfile.ZIP_DEFLATED)
    (tmp_path / "train.zip").write_bytes(whole)
    with pytest.raises(DataError, match=r"train.zip does not hold .*: the text, of 196,608 bytes, is too large"):
        read(tmp_path)
    # One that claims less: no more than that is read, and its checksum is another.
    (tmp_path / "train.zip").write_bytes(whole.replace(struct.pack("<I", 196_608), struct.pack("<I", 4_000)))
    with pytest.raises(DataError, match=r"train.zip does not hold .*CRC"):
        read(tmp_path)


@pytest.mark.parametrize("method", METHODS[2:])
def test_a_zip_of_a_method_without_bounds_is_refused(tmp_path, method):
    (tmp_path / "train.zip").write_bytes(zip_of("a __eou__ b\n" * 9, method))
    with pytest.raises(DataError, match="it is not compressed by deflate"):
        read(tmp_path)


def test_a_repetitive_text_of_ordinary_size_is_no_bomb(tmp_path):
    (tmp_path / "train.zip").write_bytes(zip_of("a __eou__ b __eou__\n" * 2**12, zipfile.ZIP_DEFLATED))
    assert len(read(tmp_path)) == 2**12


def test_a_zip_that_is_too_large_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(dailydialog, "MAX_ZIP_BYTES", 2**20)
    (tmp_path / "train.zip").write_bytes(b"\0" * (2**20 + 1))
    with pytest.raises(DataError, match=r"it is larger than 1 MiB; download it again"):
        read(tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(tmp_path, protocol):
    shared = ("Hi .", "Grüße 🙂", "x" * 300)
    rows = [shared, shared, (), ("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d"), ["in", "a list"]]
    (tmp_path / "dailydialog.train").write_bytes(pickle.dumps(rows, protocol))
    assert [tuple(turn.text for turn in turns) for _, turns in read(tmp_path)] == [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02]" + b"X\x01\x00\x00\x00aq\x01" + b"h\x01" * 50_000 + b"\x85" * 50_000 + b".", "expected a list"),
        (b"]((U\x01aq\x01" + b"h\x01" * 9_000 + b"tq\x02" + b"h\x02" * 9_000 + b"e.", "repeats the same few objects"),
        (b"]q\x00h\x00a.", r"dialogue 0: turns\[0\] should be a string"),  # a list that holds itself
        (b"](" + b"I" + b"9" * 5_000 + b"\ne.", "is refused"),  # more digits than Python converts
        (b"](\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20 + b"e.", "is refused: it wants LONG4"),
        (b"](](}U\x05weightK\x01s" + b"lle.", "is refused: it wants EMPTY_DICT"),
        (b"(" * 10_001 + b".", r"is refused: it has more than 10,000 operations"),
        (b"]" * 10_001 + b"a" * 10_000 + b".", r"is refused: it has more than 10,000 operations"),
        (b"cos\nsystem\n.", "is refused: it wants GLOBAL"),
        (b"]((Vhalf\\ud800\nle.", "lone surrogate"),
        (b"\x95" + b"\xff" * 8 + b".", "is refused"),  # a frame of 2^64 bytes
    ],
)
def test_a_hostile_pickle_is_refused(tmp_path, monkeypatch, content, reason):
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 10_000 if b"h\x01" not in content else 200_000)
    (tmp_path / "dailydialog.train").write_bytes(content)
    with pytest.raises(DataError, match=rf"dailydialog.train.*{reason}"):
        read(tmp_path)


def test_a_large_index_of_a_memo_takes_no_memory(tmp_path):
    (tmp_path / "dailydialog.train").write_bytes(b"](]r\xff\xff\xff\xffj\xff\xff\xff\xffe.")
    tracemalloc.start()
    assert read(tmp_path) == [("0", []), ("1", [])]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_pickle_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_BYTES", 2**20)
    (tmp_path / "dailydialog.train").write_bytes(b"(" * (2**20 + 1))
    with pytest.raises(DataError, match="is larger than 1 MiB; convert it to JSONL"):
        read(tmp_path)


PLACES = {
    "pipe": (os.mkfifo, "is no regular file but a pipe or a device"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is no regular file but a pipe or a device"),
    "folder": (os.mkdir, "is a folder, not a file|has no file of dialogues"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "is a link to a file that does not exist"),
    "loop": (lambda path: path.symlink_to(path), "cannot be read .Too many levels of symbolic links"),
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", ["train.jsonl", "dialogues_train.txt", "train.zip", "dailydialog.train"])
def test_what_is_no_regular_file_is_told_without_waiting(tmp_path, kind, name):
    make, reason = PLACES[kind]
    make(tmp_path / name)
    for source in (DailyDialog(str(tmp_path), "", None, ""), Jsonl(str(tmp_path / name), None, None, 0.1)):
        for use in (source.digest, lambda split, source=source: list(source.dialogues(split))):
            with pytest.raises(DataError, match=reason):
                use("train")


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "elsewhere").write_text('{"turns": ["a", "b"]}\n')
    (tmp_path / "train.jsonl").symlink_to("elsewhere")
    assert len(read(tmp_path)) == 1


def test_a_disk_that_fails_is_told(tmp_path):
    (tmp_path / "train.jsonl").symlink_to("/proc/self/mem")  # Linux: reading its start gives EIO
    source = DailyDialog(str(tmp_path), "", None, "")
    for use in (source.digest, lambda split: list(source.dialogues(split))):
        with pytest.raises(DataError, match=r"train.jsonl cannot be read \(Input/output error\)"):
            use("train")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": {"messages": [[{}]]}}', b'{"a": 3}', b"\xff"])
def test_a_damaged_package_of_chitchat_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr(ChitChat, "__init__", lambda self: setattr(self, "path", tmp_path / "dataset.json"))
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset.json is damaged .*: install chitchat-dataset again"):
        list(ChitChat().dialogues("train"))


def test_damaged_statistics_of_a_column_do_not_end_the_process():
    """A mutation of 815 bytes on which pyarrow 25 aborts where the metadata of its column are asked for."""
    damaged = Path(__file__).with_name("damaged_statistics.parquet")
    with pytest.raises(DataError, match=r"damaged_statistics\.parquet cannot be read as parquet"):
        list(Files(str(damaged), None, None, 0.1).dialogues("train"))
