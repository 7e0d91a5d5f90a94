"""Checks the header of a GGUF file, a stranger's, before the libraries read it: their loops have no bounds.

The header is magic, version, two counts, then keys with typed values (numbers, strings, lists) and the table of tensors
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from dialog_trainer.errors import ModelError
from dialog_trainer.files import why_unreadable

MAGIC = b"GGUF"
MAX_TENSORS = 100_000
MAX_KEYS = 10_000
# Entries of all lists together; a vocabulary of 262,000 entries has a list each of texts, scores, types and merges.
MAX_ENTRIES = 4_000_000
MAX_TEXT_BYTES = 2**24
# A model may have fewer tensors than layers or experts, but not many fewer.
MANY_LAYERS = 1024
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_TEXT, _LIST = 8, 9
# Where the work of the libraries grows with a number, its key holds one of these.
_COUNTS = ("block_count", "expert_count", "predict_layers")


def is_gguf(name: str) -> bool:
    """Whether a name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


@contextmanager
def parse_gguf_once() -> Iterator[None]:
    """Lets transformers parse a file once for all that it reads of it, and look up the names of tensors once for a model,
    not once for each of its modules."""
    import gguf  # for such a file alone

    kept = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, original in kept.items():
        setattr(gguf, name, lru_cache(original))
    try:
        yield
    finally:
        for name, original in kept.items():
            setattr(gguf, name, original)


def check_gguf(path: Path) -> None:
    """Raises `ModelError` for what is no GGUF file, has a header beyond all bounds, or a model that transformers cannot
    read."""
    # For such a file alone: they import the models of transformers.
    from transformers.integrations.gguf.utils import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    problem = why_unreadable(path)
    if problem:
        raise ModelError(f"{path}: {problem}")
    try:
        with path.open("rb") as file:
            architecture, tensors, counts = _read_header(file, path.stat().st_size)
    except (ValueError, struct.error) as error:
        raise ModelError(f"{path} is damaged, or no GGUF file: {error}") from None
    if not (is_gguf_arch_supported(architecture) or architecture in GGUF_SUPPORTED_ARCHITECTURES):
        known = ", ".join(sorted(GGUF_SUPPORTED_ARCHITECTURES))
        raise ModelError(
            f"{path} holds a model of the architecture {architecture[:100]!r}, which transformers does not read from GGUF "
            f"(it reads {known}): pass the model in its Hugging Face form, as a hub id or a folder"
        )
    for key, value in counts.items():
        if value > max(tensors, MANY_LAYERS):
            raise ModelError(f"{path}: {key[:100]}={value:,} is more than the {tensors:,} tensors of its weights")


def _read_header(file: BinaryIO, size: int) -> tuple[str, int, dict[str, int]]:
    """The architecture, the number of tensors and the numbers of layers. Raises `ValueError` or `struct.error`."""
    if file.read(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version, tensors, keys = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3):
        raise ValueError(f"version {version} of the format; 2 and 3 are read")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise ValueError(f"it announces {tensors:,} tensors and {keys:,} keys")
    left, architecture, counts = MAX_ENTRIES, "", {}
    for _ in range(keys):
        key = _read_text(file, size)
        (kind,) = struct.unpack("<I", file.read(4))
        if kind == _TEXT:
            text = _read_text(file, size)
            architecture = text if key == "general.architecture" else architecture
        elif kind == _LIST:
            left -= _skip_list(file, size, left)
        else:
            data = _take(file, _size_of(kind), size)
            if kind in _INTEGERS and key.endswith(_COUNTS):
                counts[key] = struct.unpack(_INTEGERS[kind], data)[0]
    if not architecture:
        raise ValueError("it has no general.architecture")
    return architecture, tensors, counts


def _skip_list(file: BinaryIO, size: int, limit: int) -> int:
    """Skips a list; returns its number of entries, at most `limit`."""
    kind, count = struct.unpack("<IQ", file.read(12))
    if count > limit:
        raise ValueError(f"it has a list of {count:,} entries")
    if kind == _TEXT:
        for _ in range(count):
            _read_text(file, size)
    else:
        _take(file, count * _size_of(kind), size)
    return int(count)


def _read_text(file: BinaryIO, size: int) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_TEXT_BYTES:
        raise ValueError(f"it has a text of {length:,} bytes")
    return _take(file, length, size).decode("utf-8")


def _size_of(kind: int) -> int:
    if kind not in _SIZES:
        raise ValueError(f"it has a value of type {kind}")
    return _SIZES[kind]


def _take(file: BinaryIO, count: int, size: int) -> bytes:
    if file.tell() + count > size:
        raise ValueError(f"it ends after {size:,} bytes, inside its header")
    return file.read(count)
