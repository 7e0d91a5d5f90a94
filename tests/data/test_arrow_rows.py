"""Rows of an Arrow stream: the same as those of the table, in any order, over the ends of its batches."""

import pyarrow as pa
import pytest

from dialog_trainer.data.arrow_rows import ArrowRows

ROWS = [{"id": f"d{n}", "ids": list(range(n % 4))} for n in range(11)]


@pytest.fixture
def rows(tmp_path) -> ArrowRows:
    """Batches of 4, 0, 6 and 1 rows."""
    schema = pa.schema({"id": pa.string(), "ids": pa.list_(pa.int32())})
    path = tmp_path / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for first, end in ((0, 4), (4, 4), (4, 10), (10, 11)):
            writer.write_batch(pa.RecordBatch.from_pylist(ROWS[first:end], schema))
    return ArrowRows(path)


def test_rows_and_columns(rows):
    assert len(rows) == len(ROWS)
    assert [rows[index] for index in range(len(ROWS))] == ROWS
    assert rows.column("id") == [row["id"] for row in ROWS]


@pytest.mark.parametrize("indices", [[], [3, 4, 9, 10], [10, 0, 10, 5, 3], range(11)])
def test_rows_are_taken_in_the_order_asked_for(rows, indices):
    assert rows.take(indices).to_pylist() == [ROWS[index] for index in indices]


@pytest.mark.parametrize("index", [-1, 11])
def test_other_indices_are_refused(rows, index):
    with pytest.raises(IndexError, match="of 11"):
        rows[index]
