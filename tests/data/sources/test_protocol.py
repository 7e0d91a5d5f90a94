"""The example in the docstring of the protocol works as it is written; a source within another loses no count."""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from pathlib import Path

import pytest

import dialog_trainer
from dialog_trainer.build.data import FirstDialogues
from dialog_trainer.data import sources
from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sources import Files, Mixture
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


# Sources that read through another one, each made of a file's place.
WRAPPERS = {
    "FirstDialogues": lambda place: FirstDialogues(Files(place, None, None, 1e-9), 10),
    "Mixture": lambda place: Mixture([place], validation_share=1e-9),
}


def test_every_source_of_the_package_is_read_alone_or_in_the_next_test():
    methods = {"dialogues", "digest", "describe"}
    files = Path(dialog_trainer.__file__).parent.rglob("*.py")
    classes = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    found = {
        one.name for one in classes if methods <= {part.name for part in one.body if isinstance(part, ast.FunctionDef)}
    }
    assert found - {"DialogueSource"} == set(sources.__all__) - {"Jsonl"} | WRAPPERS.keys()


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_source_within_another_keeps_what_was_counted(name, tmp_path):
    rows = [{"turns": [f"Hello {number} .", "Hi ."], "topic": "x", "rating": 3} for number in range(10)]
    rows[3]["turns"] = ["one turn"]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    place = str(tmp_path / "own.jsonl")
    counts = []
    for source in (Files(place, None, None, 1e-9), WRAPPERS[name](place)):
        found = open_dialogues(source, "train", tmp_path / "cache", lambda line: None).counts
        counts.append(dataclasses.replace(found, by_source={}))
    assert counts[0] == counts[1]
    assert (counts[0].unread, counts[0].by_position, counts[0].dialogues) == ({"topic": 10, "rating": 10}, 10, 9)
