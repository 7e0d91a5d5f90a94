"""A short run of the fuzzer of readers; `python -m tests.torture.fuzz_readers` runs longer ones."""

import pytest

from tests.torture.file_readers import FILE_READERS
from tests.torture.fuzz import SLOW
from tests.torture.fuzz_readers import READERS, Failure, Reader, fuzz
from tests.torture.model_readers import MODEL_READERS
from tests.torture.run_readers import RUN_READERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "reader", [*READERS, *FILE_READERS, *RUN_READERS, *MODEL_READERS], ids=lambda reader: reader.name
)
def test_mutated_files_give_a_value_or_the_error_of_the_reader(reader, capfd):
    count = 8 if reader.name in SLOW else 80
    assert fuzz(reader, count, seed=0) == []
    capfd.readouterr()  # tokenizers prints what it ignores


def test_the_fuzzer_notices_a_bad_reader():
    def read(folder):
        return int((folder / "file").read_bytes())

    [first, *_] = fuzz(Reader("number", "file", lambda: [b"12345"], read, None), 50, seed=0)
    assert isinstance(first, Failure)
    assert first.problem.startswith("ValueError: invalid literal")
