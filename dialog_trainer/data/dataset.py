"""Dialogues and their tokens on disk: written once, memory-mapped, keyed by what they are made of.

    <cache>/dialogues-<key>/   ids and turns    key: what the source says its content is, and the split
    <cache>/vocabulary-<key>/  a tokenizer      key: the dialogues it was learned from, its size
    <cache>/tokens-<key>/      ids and runs     key: the dialogues, the vocabulary, max_len, the truncation

A folder is written aside and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets.arrow_writer import ArrowWriter

from dialog_trainer.data.formatting import make_turn_tokens
from dialog_trainer.data.sources.row_format import ReadCounts, clean_dialogues
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.data.truncation import TRUNCATIONS, find_spans
from dialog_trainer.errors import DataError
from dialog_trainer.files import build_directory_once, cache_key
from dialog_trainer.types import Dialogue, Role, SpecialTokens, Turn, TurnSpans

# Raised whenever the layout of the rows or the meaning of a policy changes: older caches are then not used.
CACHE_FORMAT = 4
# Below this, starting processes costs more than tokenising.
MIN_DIALOGUES_PER_WORKER = 5_000
# A vocabulary is learned from so many dialogues at most: the learner holds every distinct word in memory.
MAX_LEARNED_FROM = 100_000
# So many sequences at a time: a pass over all of them takes no more memory than a step of the training.
CHUNK = 5_000

_DIALOGUE_FEATURES = datasets.Features(
    {"id": datasets.Value("string"), "roles": datasets.List(datasets.Value("int8")),
     "texts": datasets.List(datasets.Value("string")), "weights": datasets.List(datasets.Value("float32")),
     "references": datasets.List(datasets.List(datasets.Value("string")))}
)  # fmt: skip
_TOKEN_FEATURES = datasets.Features(
    {"dialogue": datasets.Value("int64"), "ids": datasets.List(datasets.Value("int32")),
     "roles": datasets.List(datasets.Value("int8")), "turns": datasets.List(datasets.Value("int32")),
     "lengths": datasets.List(datasets.Value("int32")), "lost": datasets.List(datasets.Value("int32")),
     "weights": datasets.List(datasets.Value("float32"))}
)  # fmt: skip


class DialogueDataset:
    """The dialogues of one split, memory-mapped. `table[i]` is a `Dialogue`."""

    def __init__(self, folder: Path):
        self.rows = datasets.Dataset.from_file(str(folder / "dialogues.arrow"))
        self.tally = ReadCounts(**json.loads((folder / "tally.json").read_text(encoding="utf-8")))
        self.digest = folder.name.removeprefix("dialogues-")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Dialogue:
        row = self.rows[int(index)]
        columns = (row[name] for name in ("roles", "texts", "weights", "references"))
        turns = (Turn(Role(role), text, weight, tuple(refs)) for role, text, weight, refs in zip(*columns, strict=True))
        return Dialogue(row["id"], tuple(turns))

    def texts(self) -> Iterator[str]:
        """The turns of all dialogues, in order; of very many, those of about `MAX_LEARNED_FROM` evenly spaced ones."""
        stride = -(-len(self.rows) // MAX_LEARNED_FROM)
        for row in self.rows.select_columns(["texts"]).select(range(0, len(self.rows), stride)):
            yield from row["texts"]


class TokenDataset:
    """The token sequences of one split, memory-mapped. `lengths` and `dialogues` are `(S,)`, as in `Runs`."""

    def __init__(self, folder: Path):
        self.rows = datasets.Dataset.from_file(str(folder / "tokens.arrow")).with_format("arrow")
        self.folder = folder
        self.digest = folder.name.removeprefix("tokens-")
        ids, dialogues = self.rows.data.column("ids"), self.rows.data.column("dialogue")
        self.lengths = np.concatenate([pyarrow.compute.list_value_length(chunk).to_numpy() for chunk in ids.chunks])
        self.dialogues = dialogues.to_numpy()

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self, indices: Sequence[int]) -> tuple[np.ndarray, TurnSpans]:
        """`ids` `(N,)` of the sequences at `indices`, one after the other, and their runs."""
        return _columns(self.rows[list(map(int, indices))])

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, np.ndarray, TurnSpans]]:
        """All sequences in order, `size` at a time: the index of the first, then as `columns` gives them."""
        for first in range(0, len(self), size):
            yield first, *_columns(self.rows[first : first + size])


def _columns(table: pa.Table) -> tuple[np.ndarray, TurnSpans]:
    def flat(name: str) -> np.ndarray:
        return table.column(name).combine_chunks().flatten().to_numpy()

    counts = pyarrow.compute.list_value_length(table.column("roles")).to_numpy()
    roles, turns, lengths, lost = (flat(name).astype(np.int64) for name in ("roles", "turns", "lengths", "lost"))
    return flat("ids"), TurnSpans(
        roles, turns, lengths, lost, flat("weights"), counts.astype(np.int64), table.column("dialogue").to_numpy()
    )


def open_dialogues(source, split: str, cache_dir: Path, say: Callable[[str], None]) -> DialogueDataset:
    """The cleaned dialogues of `split`, read from `source` the first time. Raises `DataError` if none is left."""
    folder = cache_dir / f"dialogues-{cache_key(CACHE_FORMAT, source.digest(split), split)}"
    table = DialogueDataset(build_directory_once(folder, lambda aside: _write_dialogues(source, split, aside)))
    say(f"{split}: {table.tally} from {source.describe(split)}")
    if not len(table):
        raise DataError(f"no dialogue is left in {source.describe(split)}: each needs at least two turns with text")
    return table


def _write_dialogues(source, split: str, folder: Path) -> None:
    tally = ReadCounts()
    with ArrowWriter(path=str(folder / "dialogues.arrow"), features=_DIALOGUE_FEATURES) as writer:
        for dialogue in clean_dialogues(source.dialogues(split), tally):
            writer.write(
                {
                    "id": dialogue.id,
                    "roles": [int(turn.role) for turn in dialogue.turns],
                    "texts": [turn.text for turn in dialogue.turns],
                    "weights": [turn.weight for turn in dialogue.turns],
                    "references": [list(turn.references) for turn in dialogue.turns],
                }
            )
        writer.finalize()
    (folder / "tally.json").write_text(json.dumps(asdict(tally)), encoding="utf-8")


def open_tokens(
    dialogues: DialogueDataset,
    tokenizer: DialogueTokenizer,
    *,
    max_len: int,
    truncation: str,
    workers: int,
    cache_dir: Path,
) -> TokenDataset:
    """The token sequences of `dialogues`, tokenised the first time by up to `workers` processes."""
    key = cache_key(CACHE_FORMAT, dialogues.digest, tokenizer.digest(), max_len, truncation)
    special_tokens, policy = tokenizer.special_tokens, TRUNCATIONS[truncation]

    def tokenise(rows: dict[str, list], indices: list[int]) -> dict[str, list]:
        return _tokenize(rows, indices, tokenizer, special_tokens, lambda turns: policy(turns, special_tokens, max_len))

    def write(aside: Path) -> None:
        _map(dialogues.rows, tokenise, workers, aside / "parts")
        _join(sorted((aside / "parts").glob("*.arrow")), aside / "tokens.arrow")
        shutil.rmtree(aside / "parts")

    return TokenDataset(build_directory_once(cache_dir / f"tokens-{key}", write))


def _tokenize(
    rows: dict[str, list],
    indices: list[int],
    tokenizer: DialogueTokenizer,
    special_tokens: SpecialTokens,
    policy: Callable,
) -> dict[str, list]:
    texts = [text for dialogue in rows["texts"] for text in dialogue]
    encoded = iter(tokenizer.encode_batch(texts))
    columns: dict[str, list] = {name: [] for name in _TOKEN_FEATURES}
    for index, roles, weights in zip(indices, rows["roles"], rows["weights"], strict=True):
        turns = make_turn_tokens([next(encoded) for _ in roles], roles, special_tokens.separator)
        sequences = policy(turns)
        for sequence, spans in zip(sequences, find_spans(sequences, turns), strict=True):
            columns["dialogue"].append(index)
            columns["ids"].append(sequence.ids)
            columns["roles"].append([span.role for span in spans])
            columns["turns"].append([span.turn for span in spans])
            columns["lengths"].append([span.length for span in spans])
            columns["lost"].append([span.lost for span in spans])
            columns["weights"].append([weights[span.turn] for span in spans])
    return columns


def _map(rows: datasets.Dataset, tokenise: Callable, workers: int, folder: Path) -> None:
    folder.mkdir()
    processes = max(1, min(workers, len(rows) // MIN_DIALOGUES_PER_WORKER))
    if processes > 1:
        # The processes are the parallelism; threads of a forked tokenizer would deadlock or warn.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows.map(
        tokenise,
        batched=True,
        with_indices=True,
        batch_size=200,
        num_proc=processes if processes > 1 else None,
        remove_columns=rows.column_names,
        features=_TOKEN_FEATURES,
        cache_file_name=str(folder / "tokens.arrow"),
        load_from_cache_file=False,
        new_fingerprint=folder.parent.name[-16:],
        desc="tokenising",
    )


def _join(parts: list[Path], path: Path) -> None:
    """One file of the parts that the processes wrote, in their order."""
    if len(parts) == 1:
        parts[0].rename(path)
        return
    with pa.OSFile(str(path), "wb") as sink:
        writer = None
        for part in parts:
            with pa.memory_map(str(part)) as file:
                reader = pa.ipc.open_stream(file)
                writer = writer or pa.ipc.new_stream(sink, reader.schema)
                for record_batch in reader:
                    writer.write_batch(record_batch)
        writer.close()
