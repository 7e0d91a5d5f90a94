"""mode=chat on a saved run: piped, in a pseudo-terminal, and over closed streams."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def chat(dialog_trainer, trained_run, monkeypatch):
    """`chat(lines, *options)` pipes bytes into a chat with the run."""

    def run(lines: bytes, *options: str):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
        return dialog_trainer("mode=chat", f"resume_model_dir='{trained_run}'", *options)

    return run


def test_piped_lines_give_a_line_each_and_write_no_file(chat, trained_run):
    before = sorted(trained_run.rglob("*"))
    code, out, _ = chat(b"I heard that the cat likes green tea .\nYes ?\n")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert sorted(trained_run.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "checkpoint", "decoding"),
    [
        (
            [],
            r"metric, step 4, best score \d\.\d{4}(, the lowest loss of \d equal scores)?(, validation loss \d\.\d{4})?",
            "greedy, at most 6 tokens a reply",
        ),
        (
            ["load_model_type=loss", "chat.temperature=0.5", "seed=3"],
            r"loss, step 4, (best score \d\.\d{4}.*, )?validation loss \d\.\d{4}",
            "sample(temperature 0.5, top_p 1), at most 6 tokens a reply, seed 3",
        ),
    ],
)
def test_notes_name_checkpoint_and_decoding(chat, trained_run, options, checkpoint, decoding):
    _, _, err = chat(b"", *options)
    first, second = err.splitlines()
    assert re.fullmatch(rf"checkpoint: {re.escape(str(trained_run))}/weights/\S+ \({checkpoint}\); .+", first)
    assert second == f"decoding: {decoding}"


def test_commands_and_odd_lines(chat):
    code, out, _ = chat(b"\n/reset\n/nothing\n" + b"word " * 200 + b"\n\xff\xfe bytes\n/quit\nnever read\n")
    assert code == 0
    lines = out.splitlines()
    assert lines[1] == "(forgotten)"
    assert "tokens, and there is room for 42: send a shorter one" in lines[3]
    assert len(lines) == 5


def test_greedy_repeats_and_a_seed_repeats(chat):
    lines = b"I heard .\nI heard .\n"
    assert chat(lines)[1] == chat(lines)[1]
    sampled = ("chat.temperature=5", "chat.max_new_tokens=30")
    assert chat(lines, *sampled)[1] == chat(lines, *sampled)[1]
    assert chat(lines, *sampled)[1] != chat(lines, *sampled, "seed=1")[1]
    first, second = chat(b"I heard .\n/reset\nI heard .\n", *sampled)[1].splitlines()[::2]
    assert first != second


def test_decoding_options_may_be_integers(chat):
    code, out, _ = chat(b"I heard .\n", "chat.temperature=1", "chat.top_p=1")
    assert (code, len(out.splitlines())) == (0, 1)


def test_broken_checkpoint_is_refused(chat, trained_run):
    for path in trained_run.glob("weights/*/config.json"):
        path.write_text("{}")
    code, out, err = chat(b"I heard .\n")
    assert (code, out) == (2, "")
    assert "config.json has 2 bytes instead of" in err
    assert "no whole checkpoint is left" in err


def test_needs_neither_data_nor_pretrained_weights(chat, trained_run):
    saved = trained_run / "args.yaml"
    text = saved.read_text()
    assert "pretrained_model: null" in text
    moved = re.sub(r"(\n  path: ).*", r"\1/nowhere/data", text)
    saved.write_text(moved.replace("pretrained_model: null", "pretrained_model: ./nowhere"))
    code, out, _ = chat(b"my brother ?\n")
    assert (code, len(out.splitlines())) == (0, 1)


def command(trained_run) -> list[str]:
    return [sys.executable, "-m", "dialog_trainer", "mode=chat", f"resume_model_dir='{trained_run}'"]


class TerminalSession:
    """The chat in a pseudo-terminal: types keys, and reads what the terminal shows."""

    def __init__(self, trained_run):
        self._screen, other = pty.openpty()
        self.process = subprocess.Popen(
            command(trained_run), stdin=other, stdout=other, stderr=other, env={**os.environ, "TERM": "xterm"},
            start_new_session=True, preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )  # fmt: skip
        os.close(other)
        self.shown = ""

    def read_until(self, count: int, text: str) -> None:
        """Until `text` was shown `count` times."""
        end = time.monotonic() + 120
        while self.shown.count(text) < count:
            assert time.monotonic() < end, self.shown
            self.shown += os.read(self._screen, 4096).decode()

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def interrupt(self) -> int:
        """Presses Ctrl-C until the process ends; returns its exit code. Python's readline loses one that comes in the
        instant between the prompt and its wait for a key."""
        for _ in range(60):
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        self.process.kill()
        raise AssertionError(self.shown)


def test_terminal_session(trained_run):
    """Line editing, history, and Ctrl-C at the prompt."""
    session = TerminalSession(trained_run)
    session.read_until(1, "you: ")
    session.type("/hep\x1b[Dl\r")  # the left arrow moves back before the p
    session.read_until(2, "you: ")
    session.type("\x1b[A\r")  # the up arrow recalls the line
    session.read_until(3, "you: ")
    assert session.shown.count("Type a line and press Enter.") == 3
    assert "^[[" not in session.shown
    session.type("I heard .\r")
    session.read_until(1, "bot: ")
    session.read_until(4, "you: ")
    assert session.interrupt() == 130
    assert "Traceback" not in session.shown
