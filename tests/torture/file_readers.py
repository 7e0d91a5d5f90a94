"""Readers of files of dialogues for the fuzzer: JSON documents, tables, parquet and packed files, with bombs."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from dialog_trainer.data.sources import Files
from dialog_trainer.errors import DataError
from tests.torture.fuzz_readers import DIALOGUES, Reader, valid_jsonl

ROWS = [
    {"turns": list(DIALOGUES[0])},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": None,
     "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}, {"role": "tool", "content": "1", "loss": None}],
     "tools": [{"name": "f"}], "system": "s", "weight": 0.5},
    {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]], "system": "f"},
    {"conversation": [{"human": "a", "assistant": "b"}], "label": 3},
    {"dialogue_id": 7, "speaker": "user", "text": "a"},
]  # fmt: skip


def valid_documents() -> list[bytes]:
    found = [ROWS, {"data": ROWS[:2], "version": 1}, {"x": ROWS[0], "y": ROWS[1]}, ROWS[1]]
    return [json.dumps(one, indent=indent).encode() for one in found for indent in (None, 1)]


def valid_tables() -> list[bytes]:
    lines = 'dialogue_id,speaker,text,weight\n1,user,"a, ""b""\nc",1\n1,gpt,d,\n2,user,e,0\n'
    listed = 'messages;id\n"[{""role"": ""user"", ""content"": ""a""}]";1\n'
    return [lines.encode(), b"\xef\xbb\xbfquestion\tanswer\r\na\tb\r\n", listed.encode()]


def valid_parquet() -> list[bytes]:
    tables = [
        pa.table({"turns": [["a", "b"]] * 300, "image": [b"\xff"] * 300}),
        pa.table({"messages": [[{"role": "user", "content": "a"}, {"role": "gpt", "content": "b"}]], "n": [1.5]}),
    ]
    found = []
    for table in tables:
        for compression in ("none", "snappy", "zstd", "gzip"):
            buffer = io.BytesIO()
            pyarrow.parquet.write_table(table, buffer, compression=compression)
            found.append(buffer.getvalue())
    return found


def valid_packed() -> list[bytes]:
    bomb = b'{"turns": ["' + b"a" * 2**26
    contents = [*valid_jsonl(), *valid_documents()[:2], bomb]
    return [
        *(gzip.compress(content, mtime=0) for content in contents),
        *(pa.compress(content, codec="zstd", asbytes=True) for content in contents),
        gzip.compress(valid_parquet()[0], mtime=0),
    ]


def read(folder: Path, name: str) -> Sequence[object]:
    return list(Files(str(folder / name), str(folder / name), None, 0.1).dialogues("train"))


FILE_READERS = [
    Reader("JSON document", "own.json", valid_documents, lambda folder: read(folder, "own.json"), DataError),
    Reader("table", "own.csv", valid_tables, lambda folder: read(folder, "own.csv"), DataError),
    Reader("parquet", "own.parquet", valid_parquet, lambda folder: read(folder, "own.parquet"), DataError),
    Reader("packed file", "own.jsonl.gz", valid_packed, lambda folder: read(folder, "own.jsonl.gz"), DataError),
]
