import io
import re

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_no_figures")]


@pytest.fixture
def chat(dialog_trainer, tiny_options, tmp_path, monkeypatch):
    """`chat(lines, *options)` pipes bytes into a chat with a run of a few steps."""
    code, out, err = dialog_trainer(*tiny_options, "steps=4")
    assert code == 0, out + err

    def run(lines: bytes, *options: str):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
        return dialog_trainer("mode=chat", f"resume_model_dir='{tmp_path}/runs/run'", *options)

    return run


def test_piped_lines_give_a_line_each(chat, tmp_path):
    before = sorted((tmp_path / "runs/run").rglob("*"))
    code, out, err = chat(b"I heard that the cat likes green tea .\nYes ?\n")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 2
    assert sorted((tmp_path / "runs/run").rglob("*")) == before


def test_commands_and_odd_lines(chat):
    code, out, _ = chat(b"\n/reset\n/nothing\n" + b"word " * 200 + b"\n\xff\xfe bytes\n/quit\nnever read\n")
    assert code == 0
    lines = out.splitlines()
    assert lines[:3] == [
        "(an empty line: type something, or /quit)",
        "(forgotten)",
        "(there is no /nothing: /reset or /quit)",
    ]
    assert "tokens and the window holds 41: send a shorter one" in lines[3]
    assert len(lines) == 5


def test_greedy_repeats_and_a_seed_repeats(chat):
    line = b"I heard .\n"
    assert chat(line)[1] == chat(line)[1]
    sampled = ("chat.temperature=5", "chat.max_new_tokens=30")
    assert chat(line, *sampled)[1] == chat(line, *sampled)[1]
    assert chat(line, *sampled)[1] != chat(line, *sampled, "seed=1")[1]


def test_the_decoding_options_may_be_whole_numbers(chat):
    code, out, err = chat(b"I heard .\n", "chat.temperature=1", "chat.top_p=1")
    assert (code, err, len(out.splitlines())) == (0, "", 1)


def test_a_broken_checkpoint_is_not_talked_to(chat, tmp_path):
    (tmp_path / "runs/run/weights/last/config.json").write_text("{}")
    code, out, err = chat(b"I heard .\n")
    assert (code, out) == (2, "")
    assert "config.json has 2 bytes instead of" in err
    assert "no intact checkpoint is left" in err


def test_a_chat_needs_neither_the_data_nor_the_first_weights(chat, tmp_path):
    saved = tmp_path / "runs/run/args.yaml"
    text = saved.read_text()
    assert "pretrained_model: null" in text
    moved = re.sub(r"(\n  path: ).*", r"\1/nowhere/data", text)
    saved.write_text(moved.replace("pretrained_model: null", "pretrained_model: ./nowhere"))
    code, out, err = chat(b"my brother ?\n")
    assert (code, err, len(out.splitlines())) == (0, "", 1)
