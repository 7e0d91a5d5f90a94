"""The header of a GGUF file, as a stranger may write it."""

import struct

import pytest

from dialog_trainer.data.gguf_header import check_gguf
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import ModelError


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def number(value: int) -> bytes:
    return struct.pack("<II", 4, value)


def entries(kind: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IIQ", 9, kind, count) + data


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("llama")


def header(*pairs: bytes, tensors: int = 2, keys: int | None = None, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(pairs) if keys is None else keys) + b"".join(pairs)


FILES = {
    "empty": (b"", "does not begin with GGUF"),
    "another kind": (b"PK" + bytes(40), "does not begin with GGUF"),
    "cut": (header(ARCHITECTURE)[:-2], "ends after"),
    "version": (header(version=9), "version 9 of the format"),
    "tensors": (header(tensors=10**15), "announces 1,000,000,000,000,000 tensors"),
    "keys": (header(keys=10**12), "announces"),
    "fewer keys": (header(ARCHITECTURE, keys=9), "requires a buffer"),
    "long list": (header(ARCHITECTURE, text("x") + entries(0, 2**60)), "a list of 1,152,921,504,606,846,976 entries"),
    "long text": (header(text("x") + struct.pack("<IQ", 8, 2**62)), "a text of"),
    "list of lists": (header(text("x") + entries(9, 1, bytes(30))), "a value of type 9"),
    "no architecture": (header(text("x") + number(1)), "no general.architecture"),
    "not UTF-8": (header(struct.pack("<Q", 1) + b"\xff" + number(1)), "can't decode"),
    "unknown": (header(ARCHITECTURE.replace(b"llama", b"lamma")), "of the architecture 'lamma', which transformers does not read"),
    "layers": (header(ARCHITECTURE, text("llama.block_count") + number(10**9)), "llama.block_count=1,000,000,000 is more than"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), FILES.values(), ids=FILES)
def test_a_hostile_header_is_named(tmp_path, content, reason):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    for read in (check_gguf, lambda path: DialogueTokenizer.pretrained(str(path))):
        with pytest.raises(ModelError, match=reason) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_header_within_bounds_passes(tmp_path):
    (tmp_path / "model.gguf").write_bytes(
        header(
            ARCHITECTURE, text("tokens") + entries(8, 2, text("a") + text("b")), text("llama.block_count") + number(2)
        )
    )
    check_gguf(tmp_path / "model.gguf")
