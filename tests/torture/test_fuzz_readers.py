"""A short run of the fuzzer of readers; `python -m tests.torture.fuzz_readers` runs longer ones."""

import pytest

from tests.torture.fuzz import ALL, SLOW
from tests.torture.fuzz_readers import Failure, Reader, fuzz

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("reader", ALL.values(), ids=lambda reader: reader.name)
def test_mutated_files_give_a_value_or_the_error_of_the_reader(reader, capfd):
    count = 8 if reader.name in SLOW else 50
    assert fuzz(reader, count, seed=0) == []
    capfd.readouterr()  # tokenizers prints what it ignores


def test_the_fuzzer_notices_a_bad_reader():
    def read(folder):
        return int((folder / "file").read_bytes())

    [first, *_] = fuzz(Reader("number", "file", lambda: [b"12345"], read, None), 50, seed=0)
    assert isinstance(first, Failure)
    assert first.problem.startswith("ValueError: invalid literal")
