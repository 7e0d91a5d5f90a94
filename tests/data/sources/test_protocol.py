"""The example in the docstring of the protocol works as it is written."""

import inspect
import re
import textwrap

import pytest

from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sources.protocol import DialogueSource, hash_fraction
from dialog_trainer.errors import DataError


@pytest.fixture
def example():
    """The class `Lines` of the docstring."""
    text = inspect.getdoc(DialogueSource)
    code = re.search(r"In `my_data.py`:\n\n(.*?)\n\nused with", text, re.DOTALL).group(1)
    names = {}
    exec(textwrap.dedent(code), names)
    return names["Lines"]


def test_example_source_with_a_parameter(example, tmp_path):
    folder, cache, lines = tmp_path / "lines", tmp_path / "cache", []
    folder.mkdir()
    (folder / "train.txt").write_text("Hi . ; Hello ! ; \nBye .\n", encoding="utf-8")
    source: DialogueSource = example(str(folder), separator=";")
    dialogues = open_dialogues(source, "train", cache, lines.append)
    assert [turn.text for turn in dialogues[0].turns] == ["Hi .", "Hello !"]
    assert lines == [
        "train: 1 dialogues, 2 turns (dropped: 1 dialogues of fewer than two turns, 1 empty turns) "
        f"from {folder / 'train.txt'}"
    ]
    assert (
        len(
            {source.digest(split) for split in ("train", "validation", "test")} | {example(str(folder)).digest("train")}
        )
        == 3
    )
    with pytest.raises(DataError, match=r"test.txt is missing: pass data.folder="):
        open_dialogues(source, "test", cache, lines.append)


def test_hash_fraction_is_fixed():
    """Other numbers would move dialogues between the splits of earlier runs."""
    assert hash_fraction("Hi .", "Hello !") == pytest.approx(0.7625553884158588)
    assert 0 <= hash_fraction("\ud83d") < 1
