"""The words of the product: terms of the field that a search must find, and odd words that it must not contain."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "dialog_trainer").rglob("*.py"))
CONF = sorted((ROOT / "conf").rglob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "multirun" / "README.md"]
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

TERMS = (
    "KV cache", "prefetch", "sampler", "packing", "collective", "rank 0", "shard", "rendezvous", "autocast",
    "mixed precision", "nucleus", "top-p", "beam width", "confidence interval", "bootstrap", "contamination", "ablation",
    "placebo", "gradient accumulation", "checkpoint", "preemption", "chat template",
)  # fmt: skip
ODD_WORDS = (
    "mend", "anew", "beside", "as yet", "likeliest", "pay no heed", "leave out of heed", "lay on", "is told", "tells",
)  # fmt: skip


def find(words: str, text: str, ending: str = r"\b") -> list[int]:
    """The lines of `text` with `words`, in any case; a space may be the end of a line, and `#` of a comment after it."""
    pattern = re.compile(r"\b" + r"[\s#]+".join(map(re.escape, words.split())) + ending, re.IGNORECASE)
    return [text.count("\n", 0, match.start()) + 1 for match in pattern.finditer(text)]


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in [*PACKAGE, *CONF, *PAGES, *BENCHMARKS]}


@pytest.mark.parametrize("term", TERMS)
def test_package_uses_term(term, texts):
    assert [path for path in [*PACKAGE, *CONF] if find(term, texts[path], ending="")]  # a plural too


@pytest.mark.parametrize("words", ODD_WORDS)
def test_product_avoids_odd_words(words, texts):
    found = [f"{path.relative_to(ROOT)}:{line}" for path, text in texts.items() for line in find(words, text)]
    assert found == []


def test_one_spelling(texts):
    """The code of the field has tokenize, normalize, initialize; so has all else."""
    other = re.compile(r"(token|normal|initial|material|serial|optim|summar)is(e|ing|ation)", re.IGNORECASE)
    assert [path.relative_to(ROOT).as_posix() for path, text in texts.items() if other.search(text)] == []


def test_words_are_found_over_line_ends_and_not_inside_others():
    assert find("lay on", "# A\n# Hooks LAY\n    # on it") == [2]
    assert find("mend", "recommend, mended") == find("beside", "besides") == []
