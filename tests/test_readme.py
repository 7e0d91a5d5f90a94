"""The README names what is there: the packages, and the files of the reading path."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_code_section_names_each_package():
    packages = {path.parent.name for path in (ROOT / "dialog_trainer").glob("*/__init__.py")}
    tree = README.partition("## The code")[2].partition("**Reading path.**")[0]
    assert packages == set(re.findall(r"^      (\w+)/ ", tree, re.MULTILINE))


def test_reading_path_is_complete_and_under_2000_lines():
    paragraph = README.partition("**Reading path.**")[2].partition("\n\n")[0]
    files = re.findall(r"`(dialog_trainer/[\w/]+\.py)`", paragraph)
    stems = [Path(name).stem for name in files]
    expected = ["json_rows", "dataset", "tokenizer", "formatting", "truncation", "sampler", "loss_weights", "packing",
                "packed_forward", "loss", "loop"]  # fmt: skip
    assert [stem for stem in stems if stem in expected] == expected
    assert sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files) < 2000


def test_links_of_the_pages_exist():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-").lower() for heading in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
