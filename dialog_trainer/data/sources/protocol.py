"""The protocol of a data source: what the trainer asks of it, with an example of a source of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from dialog_trainer.files import sha256_of_texts
from dialog_trainer.types import Turn

# The id of a dialogue, unique within its split, and its turns.
RawDialogue = tuple[str, list[Turn]]


class DialogueSource(Protocol):
    """Gives the raw turns of each split, which is "train", "validation" or "test".

    Any class with these three methods is a source; the parameters of its constructor are keys of `data`. In `my_data.py`:

        from pathlib import Path

        from dialog_trainer.data.sources.row_format import alternate_roles
        from dialog_trainer.errors import DataError
        from dialog_trainer.files import sha256_of_file

        class Lines:
            '''A dialogue per line, its turns divided by `separator`, in `<folder>/<split>.txt`.'''

            def __init__(self, folder: str, separator: str = "|"):
                self.folder, self.separator = Path(folder), separator

            def dialogues(self, split):
                path = self.folder / f"{split}.txt"
                if not path.is_file():
                    raise DataError(f"{path} is missing: pass data.folder=<folder with {split}.txt>")
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                    yield str(number), alternate_roles(line.split(self.separator))

            def digest(self, split):
                path = self.folder / f"{split}.txt"
                return self.separator + (sha256_of_file(path) if path.is_file() else "")

            def describe(self, split):
                return str(self.folder / f"{split}.txt")

    used with `data._target_=my_data.Lines data.folder=lines data.separator=;`. A parameter whose name ends in path, file,
    folder or dir is saved as an absolute path, so that the run can be validated from any folder. Texts need not be stripped; empty turns
    and dialogues of fewer than two turns are dropped later, and counted.
    """

    def dialogues(self, split: str) -> Iterable[RawDialogue]:
        """The dialogues of a split, one at a time, always in the same order.

        Raises `DataError` if the split is missing or cannot be read.
        """

    def digest(self, split: str) -> str:
        """A text that changes whenever what `dialogues` gives would change: the key of the cache."""

    def describe(self, split: str) -> str:
        """Where the split comes from, for messages."""


def hash_fraction(*texts: str) -> float:
    """A number in [0, 1) that depends on the texts alone."""
    return int(sha256_of_texts(*texts)[:16], 16) / 16**16
