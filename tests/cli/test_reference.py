"""docs/options.md: every option of the schema, as `make docs` writes it."""

import re
from pathlib import Path

from dialog_trainer.cli.conf import CONF, list_choices
from dialog_trainer.cli.reference import format_reference
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import all_settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "options.md").read_text(encoding="utf-8")


def test_the_page_is_what_make_docs_writes():
    assert format_reference(CONF, list_choices(None)) == PAGE


def test_every_option_has_a_row_with_all_cells():
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    assert {row[0].strip("`") for row in rows} == {*all_settings(Config)}
    assert {len(row) for row in rows} == {5}
    assert all(cell.strip() for row in rows for cell in row)
    assert {row[4] for row in rows} == {"exact", "inexact", "refused", "command"}


def test_defaults_of_choices_and_of_resume_are_named():
    assert re.search(r"^\| `optim.lr0` \| `auto` \(adam, adamw\)<br>`0.1` \(sgd\) \|", PAGE, re.MULTILINE)
    assert re.search(r"^\| `model.width` \| `128` \(gpt2_tiny\) .*\| refused \|$", PAGE, re.MULTILINE)
    assert "<name" not in PAGE
