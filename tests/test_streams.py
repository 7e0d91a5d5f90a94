"""Outputs that go away: nothing raises, the loss is noted once, and whoever keeps a copy has everything."""

import io
import os
import threading

import pytest

from dialog_trainer import streams
from dialog_trainer.streams import open_text


def broken_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def vanished_terminal() -> int:
    main, side = os.openpty()
    os.close(main)
    return side


LOST = {
    "Broken pipe": broken_pipe,
    "No space left on device": lambda: os.open("/dev/full", os.O_WRONLY),
    "Input/output error": vanished_terminal,
    "Bad file descriptor": lambda: os.open(os.devnull, os.O_RDONLY),
}


@pytest.fixture
def losses():
    streams.losses.clear()
    yield streams.losses
    streams.losses.clear()


@pytest.mark.parametrize("reason", LOST)
def test_a_lost_output_goes_nowhere(reason, losses):
    kept = io.BytesIO()
    with open_text(io.FileIO(LOST[reason](), "w"), "the screen") as out:
        output = streams.find_output(out)
        output.copy = kept.write
        for _ in range(3):
            out.write("a line é\n" * 5_000)
            out.flush()
        os.write(output.fileno(), b"from a library in C")
        assert not out.isatty()
    assert [(name, error.strerror) for name, error in losses] == [("the screen", reason)]
    assert kept.getvalue().decode() == "a line é\n" * 15_000


def test_a_full_pipe_that_does_not_block_is_waited_for(losses):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    read = []

    def drain():
        with open(reading, "rb") as file:
            read.append(file.read())

    reader = threading.Thread(target=drain)
    with open_text(io.FileIO(writing, "w"), "the screen") as out:
        threading.Timer(0.1, reader.start).start()
        out.write("x" * 1_000_000)
    while not read:
        reader.is_alive() and reader.join()
    assert (read, losses) == ([b"x" * 1_000_000], [])
