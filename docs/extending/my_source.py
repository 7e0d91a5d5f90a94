"""A data source: a folder of chat logs, one text file a conversation, one `name: text` line a message."""

from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.sources.protocol import RawDialogue, hash_fraction
from dialog_trainer.files import sha256_of_file, sha256_of_texts
from dialog_trainer.types import Role, Turn


class ChatLogs:
    """Conversations with one person, `assistant`, whose messages the model learns to write.

    Args:
        folder: holds `*.txt`, UTF-8.
        assistant: the name in the logs of the person whose turns are the assistant's.
        held_out: share of the conversations for each of validation and test, chosen by a hash of the file name.
    """

    def __init__(self, folder: str, assistant: str, held_out: float = 0.2):
        self.folder, self.assistant, self.held_out = Path(folder), assistant, held_out

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        """Yields `(id, turns)`, in the same order each time."""
        for path in self._files(split):
            yield path.stem, [self._turn(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

    def digest(self, split: str) -> str:
        """Changes whenever `dialogues(split)` would yield something else: the key of the cache."""
        files = self._files(split)
        return sha256_of_texts(self.assistant, split, *map(sha256_of_file, files))

    def describe(self, split: str) -> str:
        """The place of the data, for messages."""
        return f"{len(self._files(split))} chat logs in {self.folder}"

    def _files(self, split: str) -> list[Path]:
        return [path for path in sorted(self.folder.glob("*.txt")) if self._split_of(path) == split]

    def _split_of(self, path: Path) -> str:
        fraction = hash_fraction(path.stem)
        return "validation" if fraction < self.held_out else "test" if fraction < 2 * self.held_out else "train"

    def _turn(self, line: str) -> Turn:
        name, _, text = line.partition(": ")
        return Turn(Role.ASSISTANT if name == self.assistant else Role.USER, text)
