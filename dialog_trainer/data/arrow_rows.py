"""Rows of a memory-mapped Arrow stream, by index, without the libraries `datasets` and pandas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


class ArrowRows:
    """The rows of an Arrow stream file, memory-mapped. `rows[i]` is a dict; a negative index is refused."""

    def __init__(self, path: Path):
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            self._schema, self._batches = stream.schema, list(stream)
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)
        self.table = pa.Table.from_batches(self._batches, self._schema)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        [row] = self.take([index]).to_pylist()
        return dict(row)

    def take(self, indices: Sequence[int]) -> pa.Table:
        """The rows at `indices`, in that order; nothing is copied. Arrow's own `take` copies the batches first."""
        places = np.asarray(indices, dtype=np.int64)
        if places.size and not (places.min() >= 0 and places.max() < len(self)):
            raise IndexError(f"rows {places.min()} to {places.max()} of {len(self)}")
        batches = np.searchsorted(self._ends, places, side="right").tolist()
        found = []
        for place, number in zip(places.tolist(), batches, strict=True):
            batch = self._batches[number]
            found.append(batch.slice(place - int(self._ends[number]) + len(batch), 1))
        return pa.Table.from_batches(found, self._schema)

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        values: list[Any] = self.table.column(name).to_pylist()
        return values


def to_numpy(values: pa.ChunkedArray) -> np.ndarray:
    """The numbers of a column without nulls, or those in its lists; of one chunk not copied. Arrow's own imports pandas."""
    array = values.combine_chunks()
    return np.from_dlpack(array.flatten() if pa.types.is_list(array.type) else array)
