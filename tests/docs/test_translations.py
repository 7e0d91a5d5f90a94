"""The Korean pages hold the blocks, tables and links of the English ones, and the pages on the original all its options."""

import re

import pytest

from dialog_trainer.cli.original_flags import KEYS, TAKEN
from tests.helpers.pages import ROOT, blocks_of

PAGES = ("README", "docs/from_the_original")


def shape(page: str) -> dict[str, object]:
    """What a page and its translation have in common."""
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    blocks = [(block.language, block.commands if block.language == "bash" else None) for block in blocks_of(path)]
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return {
        "blocks": blocks,
        "headings": re.findall(r"^#+", text, re.MULTILINE),
        "rows": len(re.findall(r"^\|", text, re.MULTILINE)),
        "links": sorted({target for target in targets if target and ".ko" not in target and target not in OTHERS}),
    }


OTHERS = {"README.md", "from_the_original.md", "docs/from_the_original.md"}


@pytest.mark.parametrize("page", PAGES)
def test_translation_has_the_same_shape(page):
    assert shape(f"{page}.ko.md") == shape(f"{page}.md")


@pytest.mark.parametrize("page", ["from_the_original.md", "from_the_original.ko.md"])
def test_each_option_of_the_original_has_its_place(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = {row[0].partition(":")[0]: row[1] for row in re.findall(r"^\| `([^`]+)` \| (.*?) \|", text, re.MULTILINE)}
    assert TAKEN - rows.keys() == set()
    assert {key: here for key, here in KEYS.items() if f"`{here}`" != rows[key]} == {}
    for flag in ("-c", "-m", "-r", "-l", "-p", "-d"):
        assert flag in text
