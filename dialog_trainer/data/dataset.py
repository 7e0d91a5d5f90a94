"""Dialogue and token datasets on disk: written once, memory-mapped, cached by a key of what they are made from.

    <cache>/dialogues-6-<key>/ ids and turns     key: the source's digest of its content, and the split
    <cache>/vocabulary-<key>/  a tokenizer       key: the dialogues it was learned from, its size
    <cache>/tokens-<key>/      ids and spans     key: the dialogues, the tokenizer, max_len, the truncation policy

`cache.py` builds and checks the directories.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from dialog_trainer.data.arrow_rows import ArrowRows, to_numpy
from dialog_trainer.data.cache import LAZY_BYTES, open_entry
from dialog_trainer.data.sources.cleaning import ReadCounts, clean_dialogues
from dialog_trainer.data.sources.protocol import DialogueSource
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import DataError
from dialog_trainer.files import cache_key
from dialog_trainer.types import Dialogue, Role, Say, TokenSequence, Turn, TurnSpans

# Raise it when rows of data are read otherwise, or their layout on disk changes: older caches are then not used.
CACHE_FORMAT = 6
# Raise it when the meaning of a truncation policy or of the layout of a sequence changes: it is part of a run's digest.
SEQUENCE_FORMAT = 4
# Below this, starting a process costs more than tokenizing.
MIN_DIALOGUES_PER_WORKER = 5_000
# A vocabulary is learned from at most so many dialogues: the BPE trainer holds every distinct word in memory.
MAX_VOCABULARY_DIALOGUES = 100_000
# Sequences read at a time: a pass over all of them takes no more memory than a training step.
CHUNK = 5_000
# Dialogues written and tokenized at a time, and characters that are read before they are written: fewer of very long dialogues.
BATCH_DIALOGUES = 200
MAX_UNWRITTEN = 2**25
# Reading that takes longer is announced.
SLOW_SECONDS = 2.0

_Columns = dict[str, list[Any]]
_DIALOGUE_SCHEMA = pa.schema(
    {"id": pa.string(), "roles": pa.list_(pa.int8()), "texts": pa.list_(pa.string()), "weights": pa.list_(pa.float32()),
     "references": pa.list_(pa.list_(pa.string())), "labels": pa.list_(pa.string())}
)  # fmt: skip
_TOKEN_SCHEMA = pa.schema(
    {"dialogue": pa.int64(), "ids": pa.list_(pa.int32()), "roles": pa.list_(pa.int8()), "turns": pa.list_(pa.int32()),
     "lengths": pa.list_(pa.int32()), "lost": pa.list_(pa.int32()), "weights": pa.list_(pa.float32())}
)  # fmt: skip


class DialogueDataset:
    """The dialogues of one split, memory-mapped. `dataset[i]` is a `Dialogue`."""

    def __init__(self, folder: Path, check: Callable[[], object]):
        """`check` is called before the texts of a dataset above `LAZY_BYTES` are read for the first time."""
        self._folder, self._check = folder, check
        self.counts = ReadCounts(**json.loads((folder / "tally.json").read_text(encoding="utf-8")))
        self.digest = folder.name.rpartition("-")[2]

    @cached_property
    def path(self) -> Path:
        path = self._folder / "dialogues.arrow"
        if path.stat().st_size > LAZY_BYTES:
            self._check()
        return path

    @cached_property
    def rows(self) -> ArrowRows:
        return ArrowRows(self.path)

    def __len__(self) -> int:
        return self.counts.dialogues

    def __getitem__(self, index: int) -> Dialogue:
        row = self.rows[index]
        columns = (row[name] for name in ("roles", "texts", "weights", "references", "labels"))
        turns = (
            Turn(Role(role), text, weight, tuple(references), label)
            for role, text, weight, references, label in zip(*columns, strict=True)
        )
        return Dialogue(row["id"], tuple(turns))

    def texts(self) -> Iterator[str]:
        """The turns of all dialogues, in order; of very many, those of about `MAX_VOCABULARY_DIALOGUES` evenly spaced."""
        stride = -(-len(self.rows) // MAX_VOCABULARY_DIALOGUES)
        texts = self.rows.table.column("texts")
        for index in range(0, len(texts), stride):
            yield from texts[index].as_py()


class TokenDataset:
    """The token sequences of one split, memory-mapped; `lengths` and `dialogues` are `(S,)` int64.

    `lengths` are in tokens; `dialogues` is the index of the dialogue of each sequence, ascending.
    """

    def __init__(self, folder: Path):
        self.rows = ArrowRows(folder / "tokens.arrow")
        self.folder = folder
        self.digest = folder.name.removeprefix("tokens-")
        self.lengths = to_numpy(pyarrow.compute.list_value_length(self.rows.table.column("ids")))
        self.dialogues = to_numpy(self.rows.table.column("dialogue"))

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self, indices: Iterable[int]) -> tuple[np.ndarray, TurnSpans]:
        """`ids` `(N,)` of the sequences at `indices`, one after the other, and their spans."""
        return _to_arrays(self.rows.take(list(indices)))

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, np.ndarray, TurnSpans]]:
        """All sequences in order, `size` at a time: the index of the first, then as `columns` gives them."""
        for first in range(0, len(self), size):
            yield first, *_to_arrays(self.rows.table.slice(first, size))


def _to_arrays(table: pa.Table) -> tuple[np.ndarray, TurnSpans]:
    counts = to_numpy(pyarrow.compute.list_value_length(table.column("roles")))
    ids, weights, dialogues, *rest = (
        to_numpy(table.column(name)) for name in ("ids", "weights", "dialogue", "roles", "turns", "lengths", "lost")
    )
    roles, turns, lengths, lost = (values.astype(np.int64) for values in rest)
    return ids, TurnSpans(roles, turns, lengths, lost, weights, counts.astype(np.int64), dialogues)


def open_dialogues(
    source: DialogueSource, split: str, cache_dir: Path, say: Say, *, check_up_to: int = LAZY_BYTES
) -> DialogueDataset:
    """The cleaned dialogues of `split`, read from `source` the first time. Raises `DataError` if none is left.

    `check_up_to` as in `open_entry`.
    """
    digest = source.digest(split)

    def write(temporary: Path) -> None:
        _write_dialogues(source, split, temporary, say)
        if source.digest(split) != digest:
            raise DataError(f"{source.describe(split)} changed while it was read: start again once it is complete")

    name = f"dialogues-{CACHE_FORMAT}-{cache_key(SEQUENCE_FORMAT, digest, split)}"
    open_it = partial(open_entry, cache_dir, name, write, say)
    dataset = DialogueDataset(open_it(check_up_to=check_up_to), open_it)
    say(f"{split}: {dataset.counts} from {source.describe(split)}")
    if not len(dataset):
        unread = f"; keys not read: {', '.join(list(dataset.counts.unread)[:8])}" if dataset.counts.unread else ""
        raise DataError(
            f"no dialogue is left in {source.describe(split)}: each needs at least two turns with text{unread}"
        )
    return dataset


def _write_dialogues(source: DialogueSource, split: str, folder: Path, say: Say) -> None:
    counts, slow_at = ReadCounts(), time.monotonic() + SLOW_SECONDS
    with pa.OSFile(str(folder / "dialogues.arrow"), "wb") as sink, pa.ipc.new_stream(sink, _DIALOGUE_SCHEMA) as writer:
        for dialogues in _batches(clean_dialogues(source.dialogues(split), counts)):
            if time.monotonic() > slow_at:
                say(f"{split}: reading {source.describe(split)} ({counts.dialogues:,} dialogues so far)")
                slow_at = float("inf")
            writer.write_batch(_to_record_batch(dialogues))
    parser = getattr(source, "parser", None)
    if parser is not None:
        counts.unread, counts.by_position = parser.unread(), parser.by_position
        counts.by_source = getattr(parser, "by_source", {})
    (folder / "tally.json").write_text(json.dumps(asdict(counts)), encoding="utf-8")


def _batches(dialogues: Iterable[Dialogue]) -> Iterator[list[Dialogue]]:
    """Up to `BATCH_DIALOGUES` dialogues at a time, fewer of very long ones."""
    batch, characters = list[Dialogue](), 0
    for dialogue in dialogues:
        batch.append(dialogue)
        characters += sum(len(turn.text) for turn in dialogue.turns)
        if len(batch) >= BATCH_DIALOGUES or characters > MAX_UNWRITTEN:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _to_record_batch(dialogues: Sequence[Dialogue]) -> pa.RecordBatch:
    turns = [turn for dialogue in dialogues for turn in dialogue.turns]
    ends = np.cumsum([0, *(len(dialogue.turns) for dialogue in dialogues)], dtype=np.int32)
    accepted = [turn.references for turn in turns]
    flat = {
        "roles": pa.array(np.fromiter((turn.role for turn in turns), dtype=np.int8)),
        "texts": pa.array([turn.text for turn in turns], pa.string()),
        "weights": pa.array(np.fromiter((turn.weight for turn in turns), dtype=np.float32)),
        "references": pa.ListArray.from_arrays(
            pa.array(np.cumsum([0, *map(len, accepted)], dtype=np.int32)),
            pa.array([text for texts in accepted for text in texts], pa.string()),
        ),
        "labels": pa.array([turn.label for turn in turns], pa.string()),
    }
    columns = {name: pa.ListArray.from_arrays(pa.array(ends), values) for name, values in flat.items()}
    columns["id"] = pa.array([dialogue.id for dialogue in dialogues], pa.string())
    return pa.record_batch(
        [columns[field.name].cast(field.type) for field in _DIALOGUE_SCHEMA], schema=_DIALOGUE_SCHEMA
    )


def open_tokens(
    dialogues: DialogueDataset,
    tokenizer: DialogueTokenizer,
    *,
    max_len: int,
    truncation: str,
    workers: int,
    cache_dir: Path,
    say: Say = lambda line: None,
    check_up_to: int = sys.maxsize,
) -> TokenDataset:
    """The token sequences of `dialogues`, tokenized the first time by up to `workers` processes.

    `check_up_to` as in `open_entry`. A start reads all of them, to check their mask: none is too large to be hashed.
    """
    key = cache_key(CACHE_FORMAT, dialogues.digest, tokenizer.digest(), tokenizer.end_id, max_len, truncation)
    processes = max(1, min(workers, len(dialogues) // MIN_DIALOGUES_PER_WORKER))

    def tokenize(rows: _Columns, indices: list[int]) -> _Columns:
        columns: _Columns = {name: [] for name in _TOKEN_SCHEMA.names}
        named = zip(rows["id"], rows["roles"], rows["texts"], rows["labels"], strict=True)
        dialogues = [
            Dialogue(name, tuple(Turn(Role(role), text, label=label) for role, text, label in zip(*turns, strict=True)))
            for name, *turns in named
        ]
        encoded = tokenizer.chat_format.encode_dialogues(dialogues, max_len, truncation)
        for index, sequences, weights in zip(indices, encoded, rows["weights"], strict=True):
            for sequence in sequences:
                _append_row(columns, index, sequence, weights)
        return columns

    def write(temporary: Path) -> None:
        if len(dialogues) >= MIN_DIALOGUES_PER_WORKER:
            say(f"tokenizing {len(dialogues):,} dialogues" + (f" in {processes} processes" if processes > 1 else ""))
        _map(dialogues.path, tokenize, processes, temporary / "parts")
        _join(sorted((temporary / "parts").glob("*.arrow")), temporary / "tokens.arrow")
        shutil.rmtree(temporary / "parts")

    return TokenDataset(open_entry(cache_dir, f"tokens-{key}", write, say, check_up_to=check_up_to))


def _append_row(columns: _Columns, dialogue: int, sequence: TokenSequence, weights: Sequence[float]) -> None:
    """Adds the row of a sequence; `weights` are those of the turns of its dialogue."""
    columns["dialogue"].append(dialogue)
    columns["ids"].append(sequence.ids)
    columns["roles"].append([int(span.role) for span in sequence.spans])
    columns["turns"].append([span.turn for span in sequence.spans])
    columns["lengths"].append([len(span.ids) for span in sequence.spans])
    columns["lost"].append([span.lost for span in sequence.spans])
    columns["weights"].append([weights[span.turn] for span in sequence.spans])


def _map(path: Path, tokenize: Callable[[_Columns, list[int]], _Columns], processes: int, folder: Path) -> None:
    import datasets  # with pandas half a second, for what a start with tokens in the cache does not do

    rows = datasets.Dataset.from_file(str(path))
    folder.mkdir()
    if processes > 1:
        # The processes are the parallelism; threads of a forked tokenizer would deadlock or warn.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows.map(
        tokenize,
        batched=True,
        with_indices=True,
        batch_size=max(1, min(BATCH_DIALOGUES, MAX_UNWRITTEN * len(rows) // rows.data.nbytes)),
        num_proc=processes if processes > 1 else None,
        remove_columns=rows.column_names,
        features=datasets.Features.from_arrow_schema(_TOKEN_SCHEMA),
        cache_file_name=str(folder / "tokens.arrow"),
        load_from_cache_file=False,
        new_fingerprint=folder.parent.name[-16:],
        desc="tokenizing",
    )


def _join(parts: list[Path], path: Path) -> None:
    """Joins the files that the processes wrote, in their order."""
    if len(parts) == 1:
        parts[0].rename(path)
        return
    with pa.memory_map(str(parts[0])) as file:
        schema = pa.ipc.open_stream(file).schema
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for part in parts:
            with pa.memory_map(str(part)) as file:
                for record_batch in pa.ipc.open_stream(file):
                    writer.write_batch(record_batch)
