"""Mutates valid files of every kind and reads them: a reader gives a value or its own error, in bounded time and memory.

    python -m tests.torture.fuzz_readers [mutations of each reader] [seed] [reader ...]

A reader is a line of `READERS`. Mutations are functions of (seed, number), so that a failure can be repeated.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dialog_trainer.cli.saved_config import read_saved
from dialog_trainer.data.cache import MANIFEST, find_damage, open_entry
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.sources.files import Files
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import CheckpointError, DataError, DialogTrainerError, ModelError

MAX_SECONDS = 5.0  # of the processor: the machine may be busy
MAX_BYTES = 2**30
# A reader that hangs in Python is stopped after so many seconds.
STOP_SECONDS = 20
# Of the errors of a command line: room for what is shown of a value, and not more.
MAX_ERROR = 20_000

Texts = Sequence[Sequence[str]]
DIALOGUES: Texts = [
    ["Hi , how are you ?", "Fine .", "'s it ? 한국어 🙂", "Don't know [SEP] !"],
    ["a", "b"],
    ["the sea likes long walks " * 3, "Yes .", "I heard that \u2028 .", "<|endoftext|>"],
]


@dataclass(frozen=True)
class Reader:
    """Valid contents of one file, and what reads it, given the folder that it is in."""

    name: str
    file_name: str
    valid: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    error: type[DialogTrainerError] | None


@dataclass(frozen=True)
class Failure:
    reader: str
    seed: int
    number: int
    problem: str


class TooSlow(BaseException):
    pass


def valid_jsonl() -> list[bytes]:
    forms: list[dict[str, object]] = [{"turns": list(turns)} for turns in DIALOGUES]
    forms += [
        {"turns": ["a", {"text": "b", "role": "assistant", "weight": 0.5}], "references": [["b", "c"]]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ]
    whole = "\n".join(json.dumps(form, ensure_ascii=index % 2 == 0) for index, form in enumerate(forms)).encode()
    return [whole, b"\xef\xbb\xbf" + whole, b'{"turns": ["a", "b"]}']


def valid_text() -> list[bytes]:
    return ["".join(" __eou__ ".join(turns) + " __eou__\n" for turns in DIALOGUES).encode(), b"a __eou__ b"]


def valid_zips() -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("train/dialogues_train.txt", valid_text()[0] * 20)
            archive.writestr("train/else.txt", b"\0" * 10_000)
        found.append(buffer.getvalue())
    return found


def valid_pickles() -> list[bytes]:
    rows = [tuple(turns) for turns in DIALOGUES]
    rows = [*rows, *rows, ("x" * 300,), ("1", "2", "3")]
    return [pickle.dumps(rows, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


@cache
def valid_tokenizer_files() -> dict[str, bytes]:
    tokenizer = DialogueTokenizer.train([text for turns in DIALOGUES for text in turns], 270)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def valid_tokenizers() -> list[bytes]:
    whole = json.loads(valid_tokenizer_files()["tokenizer.json"])
    others = [
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\s+|\w+"}, "behavior": "Isolated", "invert": False}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}},
        {"truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}},
    ]
    return [json.dumps(whole | other).encode() for other in ({}, *others)]


def read_tokenizer(folder: Path) -> object:
    for name, content in valid_tokenizer_files().items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    tokenizer = DialogueTokenizer.pretrained(str(folder))
    return tokenizer.decode(tokenizer.encode_batch(["the sea [SEP] 한국어 🙂"])[0])


def read_tokenizer_config(folder: Path) -> object:
    (folder / "tokenizer.json").write_bytes(valid_tokenizer_files()["tokenizer.json"])
    return read_tokenizer(folder)


def write_entry(directory: Path) -> None:
    for name in ("a.json", "b.arrow"):
        (directory / name).write_bytes(name.encode() * 9)


def valid_manifests() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [(open_entry(Path(folder), "entry", write_entry, print) / MANIFEST).read_bytes()]


def read_entry(folder: Path) -> object:
    for name in ("a.json", "b.arrow"):
        (folder / name).write_bytes(name.encode() * 9)
    return find_damage(folder.parent, folder.name)


def valid_args() -> list[bytes]:
    runs = Path(__file__).parents[1] / "saved_runs"
    return [path.read_bytes() for path in sorted(runs.glob("*/runs/*/args.yaml"))]


def dialogues_in(folder: Path) -> list[object]:
    return list(DailyDialog(str(folder), "", None, "").dialogues("train"))


READERS = [
    Reader(
        "jsonl",
        "own.jsonl",
        valid_jsonl,
        lambda folder: list(Files(str(folder / "own.jsonl"), None, None, 0.01).dialogues("train")),
        DataError,
    ),
    Reader("text", "dialogues_train.txt", valid_text, dialogues_in, DataError),
    Reader("zip", "train.zip", valid_zips, dialogues_in, DataError),
    Reader("pickle", "dailydialog.train", valid_pickles, dialogues_in, DataError),
    Reader("tokenizer", "tokenizer.json", valid_tokenizers, read_tokenizer, ModelError),
    Reader(
        "tokenizer config",
        "tokenizer_config.json",
        lambda: [valid_tokenizer_files()["tokenizer_config.json"]],
        read_tokenizer_config,
        ModelError,
    ),
    Reader("manifest of the cache", MANIFEST, valid_manifests, read_entry, None),
    Reader("args.yaml", "args.yaml", valid_args, read_saved, CheckpointError),
]

# What breaks readers: limits of numbers, of nesting and of encodings, syntax of the formats.
PIECES = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\x1b]0;x\x07", b"9" * 5_000, b"-1", b"1e999", b"NaN", b"null", b"true",
    b"4294967296", b"18446744073709551615", b"[" * 5_000, b"{" * 500, b'{"a":' * 3_000, b"[]", b"{}", b'""', b"\n", b"\r",
    b"\x8d" + b"\xff" * 8, b"r\xff\xff\xff\x7f", b"(", b"t", b"e", b"cos\nsystem\n", b"R", b".", b"PK\x01\x02", b"PK\x05\x06",
    b"&a [*a]", b"!!python/object:os.system x", b"${oc.env:HOME}", b"- ", b": ", b"a" * 70_000, b" " * 70_000, b"%s%n", b"../" * 9,
]  # fmt: skip


def put_beside(folder: Path, files: Mapping[str, bytes]) -> None:
    """Gives the folder of the mutated file those that belong to it."""
    for name, content in files.items():
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


# A number, text or word of JSON, YAML or CSV, and what is put in its place: the file stays one of its format.
VALUE = re.compile(rb'"[^"\n]{0,200}"|-?\d[\d.eE+-]*|true|false|null')
OTHER_VALUES = [
    b"null", b"true", b"0", b"-1", b"2", b"0.5", b"1e99", b"-1e99", b"1e-320", b"9223372036854775807", b"[]", b"{}", b'""', b'"x"',
    b'"auto"', b'[1, "x"]', b'{"x": 1}', b'"\\ud800"', b'"../x"', b"NaN",
]  # fmt: skip


def mutate(content: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    """`content` after one to four mutations."""
    mutated = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 4))):
        start = random_.randrange(len(mutated) + 1)
        end = min(len(mutated), start + random_.choice((1, 2, 4, 16, 200, len(mutated))))
        match random_.randrange(12):
            case 0 | 1 if start < len(mutated):
                mutated[start] ^= 1 << random_.randrange(8)
            case 2 if start < len(mutated):
                mutated[start] = random_.randrange(256)
            case 3:
                del mutated[start:end]
            case 4:
                del mutated[start:]
            case 5:
                mutated[start:start] = mutated[start:end] * random_.choice(
                    (1, 2, 50, 2_000 if end - start < 200 else 1)
                )
            case 6:
                mutated[start:end] = random_.choice(PIECES)
            case 7:
                mutated[start:start] = random_.choice(PIECES)
            case 8 | 9 | 10:
                if value := VALUE.search(mutated, start) or VALUE.search(mutated):
                    mutated[value.start() : value.end()] = random_.choice(OTHER_VALUES)
            case _:
                other = random_.choice(others)
                cut = random_.randrange(len(other) + 1)
                mutated[start:end] = other[cut : cut + random_.choice((4, 40, len(other)))]
    return bytes(mutated[: 4 * 2**20])


def fuzz(reader: Reader, count: int, seed: int) -> list[Failure]:
    """Reads `count` mutations in this process; returns what is neither a value nor the reader's error."""
    valid, failures = reader.valid(), []
    for number in range(count):
        random_ = random.Random(f"{reader.name} {seed} {number}")
        content = mutate(random_.choice(valid), valid, random_)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            problem = try_reading(reader, content, Path(folder) / "entry")
        if problem:
            failures.append(Failure(reader.name, seed, number, problem))
    return failures


def try_reading(reader: Reader, content: bytes, folder: Path) -> str | None:
    """What is wrong with how the reader takes a file of this content; None if nothing."""
    path = folder / reader.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    before, start, problem = reset_peak(), time.process_time(), None
    try:
        with stop_after(STOP_SECONDS):
            reader.read(folder)
    except (Exception, TooSlow) as error:
        if reader.error is None or not isinstance(error, reader.error):
            problem = f"{type(error).__name__}: {str(error)[:200]}"
        elif str(folder) not in str(error):
            problem = f"the message does not name the file: {str(error)[:200]}"
    seconds, peak = time.process_time() - start, reset_peak() - before
    if seconds > MAX_SECONDS:
        problem = f"{seconds:.1f} s ({problem})"
    if peak > MAX_BYTES:
        problem = f"{peak / 2**20:,.0f} MiB ({problem})"
    return problem


@contextmanager
def stop_after(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow(f"not finished after {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def reset_peak() -> int:
    """The highest memory of this process since the last call, in bytes; 0 where it is not known."""
    try:
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main(arguments: Sequence[str]) -> int:
    count, seed = (int(text) for text in (*arguments[:2], *("1000", "0")[len(arguments[:2]) :]))
    failures = []
    for reader in READERS:
        if not arguments[2:] or reader.name in arguments[2:]:
            found = fuzz(reader, count, seed)
            print(f"{reader.name}: {count:,} mutations, {len(found)} failures", flush=True)
            failures += found
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
