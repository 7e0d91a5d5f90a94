"""Plain YAML of a stranger: whatever it holds, a value or one named reason, in bounded time."""

import contextlib
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.cli.plain_yaml import load_plain

# PyYAML itself writes NEL so that it is read as a line end.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x85"))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)  # fmt: skip
DOUBLED = "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 40))


@given(VALUES)
@settings(deadline=None, max_examples=100)
def test_what_a_run_writes_is_read(value):
    text = yaml.safe_dump({"value": value}, sort_keys=False, allow_unicode=True)
    assert load_plain(text.encode())["value"] == value


@given(st.text(st.sampled_from(list("ab1:-?[]{}!&*|>'\"#%\n \t,.<=~@`\\")), max_size=60) | st.binary(max_size=60))
@settings(deadline=None, max_examples=500)
def test_anything_else_is_a_value_or_one_reason(text):
    content = text if isinstance(text, bytes) else text.encode()
    for aliases in (False, True):
        with contextlib.suppress(ValueError):
            load_plain(content, aliases=aliases)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        f"a0: &a0 [x]\n{DOUBLED}",
        f"a0: &a0 {{x: 1}}\n{DOUBLED.replace('[', '{<<: [').replace(']', ']}')}",
        "a: &a [*a]",
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000)),
        "? " * 100_000,
        "- " * 100_000,
        "".join(" " * i + "a:\n" for i in range(500)),
    ],
    ids=["doubled", "merged", "itself", "chain", "keys", "lists", "block"],
)
def test_a_bomb_is_refused_at_once(text):
    start = time.process_time()
    with pytest.raises(ValueError, match=r"deeper than 30|more than 10,000 values"):
        load_plain(text.encode(), aliases=True)
    assert time.process_time() - start < 2
