"""The cache: every damage is noticed and mended by building again; what killed writers leave is swept."""

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time

import pytest

from dialog_trainer.data import cache, dataset
from dialog_trainer.data import cache as cache_module
from dialog_trainer.data.cache import MANIFEST, find_damage, open_entry
from dialog_trainer.data.dataset import open_dialogues, open_tokens
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import DataError


def write(directory):
    (directory / "a.json").write_text('{"a": 1}')
    (directory / "b.bin").write_bytes(bytes(range(256)))


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def quiet(line):
    raise AssertionError(line)


@pytest.fixture
def entry(tmp_path):
    return open_entry(tmp_path / "cache", "kind-key", write, quiet)


def replace_by_file(entry):
    shutil.rmtree(entry)
    entry.write_text("a file")


def replace_by_link(entry):
    entry.rename(entry.with_name("elsewhere"))
    entry.symlink_to("elsewhere")


def link_file(entry):
    (entry / "b.bin").rename(entry.parent / "b.bin")
    (entry / "b.bin").symlink_to("../b.bin")


def cut(name, size):
    return lambda entry: os.truncate(entry / name, size)


def put(name, text):
    return lambda entry: (entry / name).write_text(text)


def make_pipe(entry):
    (entry / "b.bin").unlink()
    os.mkfifo(entry / "b.bin")


def make_folder(entry):
    (entry / "b.bin").unlink()
    (entry / "b.bin").mkdir()


DAMAGE = {
    "flip": (lambda entry: (entry / "b.bin").write_bytes(bytes(range(255)) + b"\x00"), f"b.bin and {MANIFEST} differ"),
    "cut": (cut("b.bin", 255), f"b.bin has another size than {MANIFEST} says"),
    "zeros": (lambda entry: (entry / "b.bin").write_bytes(bytes(256)), f"b.bin and {MANIFEST} differ"),
    "longer": (
        lambda entry: (entry / "b.bin").write_bytes(bytes(range(256)) + b"\x00"),
        f"b.bin has another size than {MANIFEST} says",
    ),
    "no file": (lambda entry: (entry / "b.bin").unlink(), "b.bin is missing"),
    "pipe": (make_pipe, "b.bin: is no regular file"),
    "folder": (make_folder, "b.bin: is no regular file"),
    "link": (link_file, "b.bin: is a link"),
    "no manifest": (lambda entry: (entry / MANIFEST).unlink(), f"{MANIFEST} is missing"),
    "half a manifest": (cut(MANIFEST, 20), f"{MANIFEST} is damaged"),
    "a list": (put(MANIFEST, "[1]"), f"{MANIFEST} is damaged"),
    "another manifest": (put(MANIFEST, f'{{"b.bin": [256, "{"0" * 64}"]}}'), f"b.bin and {MANIFEST} differ"),
    "other values": (put(MANIFEST, '{"b.bin": 3}'), f"{MANIFEST} is damaged"),
    "a manifest of nothing": (put(MANIFEST, "{}"), f"b.bin is not in {MANIFEST}"),
    "nested": (put(MANIFEST, "[" * 200_000), f"{MANIFEST} is damaged"),
    "outside": (put(MANIFEST, '{"../../x": [1, "a"]}'), "is no path below its folder"),
    "huge manifest": (put(MANIFEST, " " * (2**20 + 1)), f"{MANIFEST}: is larger than"),
    "empty": (lambda entry: (shutil.rmtree(entry), entry.mkdir()), f"{MANIFEST} is missing"),
    "a file": (replace_by_file, "kind-key: Not a directory"),
    "a link": (replace_by_link, "kind-key: is a link"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_and_built_again(entry, kind):
    damage, reason = DAMAGE[kind]
    before, lines = content(entry), []
    damage(entry)
    assert reason in find_damage(entry.parent, entry.name)
    assert open_entry(entry.parent, entry.name, write, lines.append) == entry
    assert content(entry) == before
    assert not entry.is_symlink()
    assert [line.split(" is built again: ")[0] for line in lines] == [f"note: {entry}"]
    assert not list(entry.parent.glob(".aside-*"))
    open_entry(entry.parent, entry.name, None, quiet)


def test_what_another_process_has_built_again_meanwhile_is_kept(entry, monkeypatch):
    """Both find the damage; the second must not remove what the first has built since, and may be reading."""
    DAMAGE["flip"][0](entry)
    kept, find = [], cache_module.find_damage

    def find_and_let_another_build(*arguments):
        found = find(*arguments)
        if found and not kept:
            kept.append(found)
            open_entry(entry.parent, entry.name, write, [].append)
        return found

    monkeypatch.setattr(cache_module, "find_damage", find_and_let_another_build)
    assert open_entry(entry.parent, entry.name, None, quiet) == entry
    assert kept == [f"b.bin and {MANIFEST} differ (sha256)"]


def test_a_file_above_the_bound_is_not_hashed(entry):
    DAMAGE["flip"][0](entry)
    assert find_damage(entry.parent, entry.name, 255) is None
    assert find_damage(entry.parent, entry.name, 256) == f"b.bin and {MANIFEST} differ (sha256)"


def test_the_first_of_two_builders_wins(tmp_path):
    def second(directory):
        (directory / "file").write_text("second")
        open_entry(tmp_path, "one", lambda earlier: (earlier / "file").write_text("first"), quiet)

    assert open_entry(tmp_path, "one", second, quiet) == tmp_path / "one"
    assert (tmp_path / "one" / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["one"]


def test_errors_of_a_source_keep_their_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        open_entry(tmp_path, "one", lambda directory: (tmp_path / "data.jsonl").read_text(), quiet)
    assert caught.value.filename == str(tmp_path / "data.jsonl")


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EFBIG, "File too large"),
    Exception("No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_tells_what_is_needed_and_leaves_nothing(tmp_path, error):
    def fill(directory):
        (directory / "part").write_bytes(bytes(1_234))
        raise error

    with pytest.raises(
        DataError, match=r"is full: one needs more than 1,234 bytes, and [\d,]+ are free .*data.cache_dir"
    ):
        open_entry(tmp_path, "one", fill, quiet)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [lambda path: path.write_text("a file"), lambda path: path.symlink_to(path)])
def test_a_cache_that_cannot_be_made_names_the_option(tmp_path, make):
    make(tmp_path / "cache")
    with pytest.raises(DataError, match=r"cache cannot be written \(.*\): pass data.cache_dir=<folder>"):
        open_entry(tmp_path / "cache", "one", write, quiet)


def killed_writer(cache_dir):
    """A process that is killed while it writes an entry of the cache."""
    code = "import os,sys,signal,pathlib; from dialog_trainer.data.cache import open_entry\n"
    code += "def write(d): (d / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "open_entry(pathlib.Path(sys.argv[1]), 'one', write, print)"
    subprocess.run([sys.executable, "-c", code, str(cache_dir)], check=False)
    return next(cache_dir.glob(".aside-*"))


def test_the_leftover_of_a_killed_writer_is_removed_by_the_next_start(entry):
    leftover = killed_writer(entry.parent)
    open_entry(entry.parent, entry.name, write, quiet)
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        ("{machine}-{own}-x", 60, True),  # this process is writing it
        ("{machine}-{own}-x", 10**6, False),  # another one had its number
        ("0123456789ab-{own}-x", 60, True),  # another machine, or another container
        ("0123456789ab-{own}-x", 10**6, False),
        ("123-456", 60, True),  # an earlier version
        ("123-456", 10**6, False),
        ("", 60, True),
    ],
)
def test_what_others_write_is_left_until_it_is_old(tmp_path, name, age, stays):
    path = tmp_path / f".aside-{name.format(machine=cache._machine(), own=os.getpid())}"
    (path / "parts").mkdir(parents=True)
    for old in (path / "parts", path):
        os.utime(old, (time.time() - age,) * 2)
    open_entry(tmp_path, "one", write, quiet)
    assert path.exists() == stays


def test_a_writer_that_still_writes_is_not_old(tmp_path):
    path = tmp_path / ".aside-0123456789ab-1-x"
    path.mkdir()
    (path / "file").write_text("new")
    os.utime(path, (0, 0))
    open_entry(tmp_path, "one", write, quiet)
    assert path.exists()


class Tables:
    """Dialogues, tokens and a vocabulary in a cache, opened as a start does it."""

    def __init__(self, source, tokenizer, folder):
        self.source, self.tokenizer, self.folder = source, tokenizer, folder

    def open(self, say):
        dialogues = open_dialogues(self.source, "train", self.folder, say)
        tokens = open_tokens(
            dialogues, self.tokenizer, max_len=24, truncation="split", workers=1, cache_dir=self.folder, say=say
        )
        texts = list(dialogues.texts())
        vocabulary = open_entry(self.folder, "vocabulary-x", lambda d: DialogueTokenizer.train(texts, 300).save(d), say)
        ids, spans = tokens.columns(range(len(tokens)))
        return texts, ids.tolist(), spans.lengths.tolist(), DialogueTokenizer.pretrained(str(vocabulary)).digest()


@pytest.fixture
def tables(jsonl_folder, tokenizer, tmp_path):
    return Tables(DailyDialog(str(jsonl_folder), "", None, ""), tokenizer, tmp_path / "cache")


def built_again(lines):
    return [line.split(" is built again")[0].split("/")[-1] for line in lines if line.startswith("note: ")]


def test_flipped_bits_of_every_file_are_noticed(tables):
    tables.open(lambda line: None)
    random_ = random.Random(0)
    files = sorted(path for path in tables.folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    assert {path.name for path in files} >= {"dialogues.arrow", "tally.json", "tokens.arrow", "tokenizer.json"}
    for path in files * 40:
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[random_.randrange(len(whole))] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
        assert find_damage(tables.folder, path.parent.name) == f"{path.name} and {MANIFEST} differ (sha256)"
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["dialogues.arrow", "tally.json", "tokens.arrow", "tokenizer.json"])
def test_a_damaged_table_gives_the_same_data(tables, name):
    before = tables.open(lambda line: None)
    path = next(tables.folder.rglob(name))
    os.truncate(path, path.stat().st_size // 2)
    lines = []
    assert tables.open(lines.append) == before
    assert built_again(lines) == [path.parent.name]


def test_the_texts_of_a_large_dataset_are_checked_when_they_are_used(tables, monkeypatch):
    before = tables.open(lambda line: None)
    for module in (cache, dataset):
        monkeypatch.setattr(module, "LAZY_BYTES", 100)
    path = next(tables.folder.rglob("dialogues.arrow"))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    lines = []
    dialogues = open_dialogues(tables.source, "train", tables.folder, lines.append, check_up_to=100)
    assert (len(dialogues), built_again(lines)) == (36, [])
    assert list(dialogues.texts()) == before[0]
    assert built_again(lines) == [path.parent.name]


@pytest.mark.parametrize("limit", [10, 300, 2_000, 6_000, 12_000])
def test_a_limit_of_the_size_of_a_file_is_one_message(tables, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DataError, match=r"is full: .* needs more than .*File too large"):
            tables.open(lambda line: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tables.folder.glob(".aside-*"))
    before = tables.open(lambda line: None)
    assert tables.open(lambda line: None) == before


def test_data_that_change_while_they_are_read_are_not_cached(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"turns": ["a", "b"]}\n')

    class Growing(DailyDialog):
        def dialogues(self, split):
            yield from super().dialogues(split)
            path.write_text(path.read_text() + json.dumps({"turns": ["c", "d"]}) + "\n")

    with pytest.raises(DataError, match=r"train.jsonl changed while it was read: start again"):
        open_dialogues(Growing(str(tmp_path), "", None, ""), "train", tmp_path / "cache", quiet)
    assert os.listdir(tmp_path / "cache") == []
