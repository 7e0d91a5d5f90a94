"""docs/security.md: every promise names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| a stranger's")]


@pytest.mark.parametrize("row", ROWS)
def test_each_promise_names_its_tests(row):
    named = re.findall(r"`([\w/.]*)::(test_\w+)`", row)
    assert named
    file = ""
    for path, test in named:
        file = path or file
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test
