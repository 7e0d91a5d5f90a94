"""What the pages say of files, packages and messages is so: links, the reading path, languages of blocks, sizes."""

import re
from pathlib import Path

import pytest

from dialog_trainer.cli.conf import list_choices
from tests.helpers.pages import PAGES, ROOT, anchors_of, blocks_of

LANGUAGES = {"bash", "python", "json", "yaml", "text"}
SOURCE = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "dialog_trainer").rglob("*.py")))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        if not re.match(r"\w+:", target):
            place = page.parent / file if file else page
            if not place.exists() or (anchor and anchor not in anchors_of(place)):
                wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_block_has_a_language(page):
    assert [(block.line, block.language) for block in blocks_of(page) if block.language not in LANGUAGES] == []


def test_index_names_each_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name}" not in index} == set()


def test_front_page_is_short_and_names_the_reading_path():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    assert "**Reading path.**" in text


def test_page_of_the_code_names_each_package_and_module():
    packages = {path.parent.name for path in (ROOT / "dialog_trainer").glob("*/__init__.py")}
    tree = (ROOT / "docs" / "code.md").read_text(encoding="utf-8").partition("## Reading path")[0]
    assert packages == set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    modules = {path.stem for path in (ROOT / "dialog_trainer").glob("*.py")} - {"__init__", "__main__"}
    assert modules == set(re.findall(r"(\w+)\.py\b", tree))


def test_reading_path_is_complete_and_under_2000_lines():
    text = (ROOT / "docs" / "code.md").read_text(encoding="utf-8").partition("## Reading path")[2]
    files = re.findall(r"`(dialog_trainer/[\w/]+\.py)`", text)
    stems = [Path(name).stem for name in files]
    expected = ["json_rows", "dataset", "tokenizer", "formatting", "truncation", "sampler", "loss_weights", "packing",
                "packed_forward", "loss", "loop"]  # fmt: skip
    assert [stem for stem in stems if stem in expected] == expected
    assert sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files) < 2000


def test_table_of_groups_names_each_choice():
    table = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").partition("| group | choices")[2]
    rows = re.findall(r"^\| `([\w/]+)` \| (.*) \|$", table.partition("\n\n")[0], re.MULTILINE)
    choices = {group: {*names} - {"none"} for group, names in list_choices(None).items() if len(names) > 1}
    assert {group: {*re.findall(r"`(\w+)`", cell)} for group, cell in rows} == choices


def test_messages_of_troubleshooting_are_those_of_the_program():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(messages) > 20
    assert [message for message in messages if message not in SOURCE] == []
