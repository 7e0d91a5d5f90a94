"""Feeding a tracker with the rows of a run: each once, in order, and never at the cost of the run."""

import threading
import time

import pytest

from dialog_trainer.tracking import tracker as tracker_module
from dialog_trainer.tracking.jsonl import MetricWriter
from dialog_trainer.tracking.tracker import RowFeeder


@pytest.fixture(autouse=True)
def _read_often(monkeypatch):
    monkeypatch.setattr(tracker_module, "READ_EVERY_SECONDS", 0.01)


@pytest.fixture
def writer(tmp_path):
    writer = MetricWriter(tmp_path, "metrics.jsonl", attempt=0)
    yield writer
    writer.close()


class Recorder:
    def __init__(self, *, fails_at=None, close_fails=False, hangs=None):
        self.steps, self.closed, self.threads = [], 0, set()
        self.fails_at, self.close_fails, self.hangs = fails_at, close_fails, hangs

    def log(self, row):
        self.threads.add(threading.current_thread().name)
        if row["step"] == self.fails_at:
            raise ConnectionError("no route to host")
        if self.hangs:
            self.hangs.wait()
        self.steps.append(row["step"])

    def close(self):
        self.closed += 1
        if self.close_fails:
            raise ValueError("cannot close")


def write(writer, *steps):
    for step in steps:
        writer.add(step=step, epoch=0, split="train", values={"train_loss": 1.0})


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_rows_of_this_attempt_are_fed_once_in_order(tmp_path, writer):
    recorder, warnings = Recorder(), []
    write(writer, 0, 1)
    with RowFeeder(tmp_path / "metrics.jsonl", lambda: recorder, warnings.append):
        write(writer, 2, 3)
        wait_until(lambda: recorder.steps == [2, 3])  # during the run, not only at its end
        write(writer, 4)
    assert (recorder.steps, recorder.closed, warnings) == ([2, 3, 4], 1, [])
    assert recorder.threads == {"tracker"}


def test_rows_before_an_error_of_the_run_are_fed(tmp_path, writer):
    recorder = Recorder()
    with pytest.raises(KeyError), RowFeeder(tmp_path / "metrics.jsonl", lambda: recorder, print):  # noqa: PT012
        write(writer, 0)
        raise KeyError
    assert (recorder.steps, recorder.closed) == ([0], 1)


@pytest.mark.parametrize(
    ("options", "steps", "warning"),
    [
        ({"fails_at": 1}, [0], "ConnectionError: no route to host"),
        ({"close_fails": True}, [0, 1, 2], "ValueError: cannot close"),
        ({"fails_at": 0, "close_fails": True}, [], "ConnectionError: no route to host"),
    ],
)
def test_failing_tracker_is_off_after_one_warning(tmp_path, writer, options, steps, warning):
    recorder, warnings = Recorder(**options), []
    with RowFeeder(tmp_path / "metrics.jsonl", lambda: recorder, warnings.append):
        write(writer, 0, 1, 2)
    assert (recorder.steps, recorder.closed) == (steps, 1)
    assert warnings == [f"note: the logger failed and is off from here on ({warning}); the run goes on"]


def test_tracker_that_cannot_be_made_gives_one_warning(tmp_path, writer):
    def build():
        raise PermissionError("not allowed")

    warnings = []
    with RowFeeder(tmp_path / "metrics.jsonl", build, warnings.append):
        write(writer, 0)
    assert len(warnings) == 1
    assert "PermissionError: not allowed" in warnings[0]


def test_hanging_tracker_does_not_keep_a_run_alive(tmp_path, writer, monkeypatch):
    monkeypatch.setattr(tracker_module, "CLOSE_SECONDS", 0.1)
    release, warnings = threading.Event(), []
    feeder = RowFeeder(tmp_path / "metrics.jsonl", lambda: Recorder(hangs=release), warnings.append)
    with feeder:
        write(writer, 0)
    release.set()
    feeder._thread.join()
    assert len(warnings) == 1
    assert "its last rows may be missing" in warnings[0]
