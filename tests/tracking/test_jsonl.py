"""The rows of a run: appended only; readers take the newest attempt."""

import json
import math
import os
import re

import pytest

from dialog_trainer.errors import CheckpointError
from dialog_trainer.tracking.jsonl import (
    CHUNK_BYTES,
    MAX_LINE_BYTES,
    JsonlWriter,
    MetricWriter,
    copy_rows,
    read_newest_rows,
    read_next_attempt,
    read_rows,
    read_rows_after,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(path, *attempts: str) -> None:
    """Each attempt is `train` and `validation` steps in the order they were written: `"0 1 v2 2 3 v4"`."""
    log = JsonlWriter(path.parent, path.name)
    for attempt, steps in enumerate(attempts):
        for step in steps.split():
            split = "validation" if step[0] == "v" else "train"
            log.append([{"step": int(step.strip("v")), "attempt": attempt, "split": split}])
    log.close()


def found(path, split: str) -> list[tuple[int, int]]:
    return [(row["step"], row["attempt"]) for row in read_newest_rows(path, split)]


def test_older_rows_stay_byte_for_byte(path):
    for number in range(3):
        before = path.read_bytes() if path.exists() else b""
        log = JsonlWriter(path.parent, path.name)
        log.append([{"number": number}, {"text": "é\n😀 "}])
        # Flushed at once: what was written can be read before the file is closed.
        assert path.read_bytes().startswith(before)
        assert len(list(read_rows(path))) == 2 * (number + 1)
        log.close()
    assert [row["number"] for row in read_rows(path) if "number" in row] == [0, 1, 2]
    assert all(row["text"] == "é\n😀 " for row in read_rows(path) if "text" in row)


@pytest.mark.parametrize("cut", [1, 5, 12, 21])
def test_half_written_line_is_skipped_and_removed(path, cut):
    line = json.dumps({"step": 0, "text": "é"}, ensure_ascii=False) + "\n"
    path.write_bytes(line.encode() + line.encode()[:cut])
    assert [row["step"] for row in read_rows(path)] == [0]
    log = JsonlWriter(path.parent, path.name)
    log.append([{"step": 1, "text": ""}])
    log.close()
    assert log.removed_bytes == cut
    assert [row["step"] for row in read_rows(path)] == [0, 1]
    assert path.read_bytes().startswith(line.encode() + b'{"step": 1')


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * MAX_LINE_BYTES])
def test_an_unfinished_line_of_any_size_is_removed(path, size):
    path.write_bytes(b'{"step": 0}\n' + b"x" * size)
    JsonlWriter(path.parent, path.name).close()
    assert path.read_bytes() == b'{"step": 0}\n'
    path.write_bytes(b"x" * size)
    JsonlWriter(path.parent, path.name).close()
    assert path.read_bytes() == b""


def test_a_last_row_without_a_line_end_stays(path):
    path.write_bytes(b'{"step": 0}')
    JsonlWriter(path.parent, path.name).close()
    assert path.read_bytes() == b'{"step": 0}\n'


GOOD = {"step": 3, "attempt": 1, "split": "train", "train_loss": 2.5, "signature": "x"}
NO_ROWS = {
    "half": '{"step": 4, "att', "rubbish": "\x00\ufffd\u2028", "a list": "[1]", "a number": "7", "empty": "",
    "deep": "[" * 100_000, "deep in a row": '{"step": 4, "attempt": 1, "split": "train", "x": ' + "[" * 100_000,
    "many digits": json.dumps({**GOOD, "x": 0}).replace(' 0}', f' {"1" * 5_000}}}'),
    "large number": json.dumps({**GOOD, "x": 10**200}), "huge line": json.dumps({**GOOD, "x": " " * MAX_LINE_BYTES}),
    "NaN": json.dumps({**GOOD, "x": math.nan}), "infinite": json.dumps(GOOD).replace("2.5", "1e999"),
    **{f"{key}={value!r}": json.dumps({**GOOD, key: value}) for key, value in (
        ("attempt", None), ("attempt", "1"), ("attempt", True), ("attempt", 1.0), ("attempt", -1), ("attempt", 2**70),
        ("step", None), ("step", []), ("step", 2**60), ("split", 1), ("split", None), ("signature", {}),
        ("train_loss", "2.5"), ("train_loss", [2.5]), ("train_loss", {"a": 1}),
    )},
    "without attempt": '{"step": 4, "split": "train"}', "without split": '{"step": 4, "attempt": 1}',
}  # fmt: skip


@pytest.mark.parametrize("name", NO_ROWS)
def test_what_is_no_row_is_passed_over(path, name):
    row = json.dumps(GOOD)
    path.write_text(f"{row}\n{NO_ROWS[name]}\n{row}\n", encoding="utf-8", errors="surrogatepass")
    assert read_newest_rows(path, "train") == [GOOD]
    assert read_next_attempt(path) == 2


def test_rows_are_copied_whatever_they_hold(path, tmp_path):
    """Those without a step that is a count are left out, and a lone surrogate stays one."""
    rows = [{"step": 1, "text": "\ud800 한"}, {"step": {}}, {"step": [1]}, {"step": "1"}, {"text": "x"}, {"step": 2}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    new = tmp_path / "new"
    new.mkdir()
    copy_rows(path.parent, new, path.name, step=2)
    assert list(read_rows(new / path.name)) == rows[:1]


@pytest.mark.parametrize("kind", ["pipe", "directory", "link"])
def test_what_is_no_file_of_the_run_is_named(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path.parent / "other")
        (path.parent / "other").write_text(json.dumps(GOOD))
    for reader in (
        read_next_attempt,
        lambda path: read_newest_rows(path, "train"),
        lambda path: read_rows_after(path, 0),
    ):
        with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} is .*: replace it"):
            reader(path)


def test_reading_continues_after_the_last_complete_line(path):
    assert read_rows_after(path, 0) == ([], 0)
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n{"st')
    assert read_rows_after(path, 0) == ([{"step": 0}, {"step": 1}], 24)
    with path.open("ab") as file:
        file.write(b'ep": 2}\nno row\n\n')
    rows, offset = read_rows_after(path, 24)
    assert (rows, offset) == ([{"step": 2}], path.stat().st_size)
    assert read_rows_after(path, offset) == ([], offset)


def test_non_finite_number_is_refused_with_nothing_written(path):
    log = JsonlWriter(path.parent, path.name)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append([{"loss": 1.0}, {"loss": math.nan}])
    log.close()
    assert path.read_bytes() == b""


def test_metric_row_has_its_keys_then_its_values(path):
    log = MetricWriter(path.parent, path.name, attempt=2)
    log.add(step=7, epoch=1, split="train", values={"train_loss": 1.5, "grad_norm": None})
    log.close()
    (row,) = read_rows(path)
    assert list(row) == ["step", "epoch", "attempt", "split", "time_seconds", "train_loss", "grad_norm"]
    assert row.pop("time_seconds") >= 0
    assert row == {"step": 7, "epoch": 1, "attempt": 2, "split": "train", "train_loss": 1.5, "grad_norm": None}


def test_missing_file_has_no_rows(path):
    assert list(read_rows(path)) == []
    assert read_newest_rows(path, "train") == []
    assert read_next_attempt(path) == 0


@pytest.mark.parametrize(("attempts", "expected"), [(["0 1"], 1), (["0", "1", "2"], 3), (["0 1", "1"], 2)])
def test_next_attempt_is_one_more_than_the_highest(path, attempts, expected):
    write(path, *attempts)
    assert read_next_attempt(path) == expected


@pytest.mark.parametrize(
    ("attempts", "train", "validation"),
    [
        (["0 1 v2 2"], [(0, 0), (1, 0), (2, 0)], [(2, 0)]),
        # Resumed from step 2: what came after it is no longer part of the run, even where the new one is shorter.
        (["0 1 v2 2 3 v4", "2"], [(0, 0), (1, 0), (2, 1)], [(2, 0)]),
        (["0 1 v2 2 3 v4", "2 3 v4 4"], [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1)], [(2, 0), (4, 1)]),
        # Resumed at the end: the validation there was not repeated, and belongs to both.
        (["0 1 v2", "2 3 v4"], [(0, 0), (1, 0), (2, 1), (3, 1)], [(2, 0), (4, 1)]),
        # Validated again before the first step.
        (["0 1 v2", "v2 2"], [(0, 0), (1, 0), (2, 1)], [(2, 1)]),
        # A third attempt that goes further back than the second.
        (["0 1 2 3 v4", "2 3 v4 4", "1 v2"], [(0, 0), (1, 2)], [(2, 2)]),
        # From the start again.
        (["0 v1 1 v2", "0 v1"], [(0, 1)], [(1, 1)]),
    ],
)
def test_newest_attempt_of_each_step_counts(path, attempts, train, validation):
    write(path, *attempts)
    assert found(path, "train") == train
    assert found(path, "validation") == validation
