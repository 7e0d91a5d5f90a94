"""data.sources.chitchat."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from dialog_trainer.data.sources.protocol import RawDialogue, hash_fraction
from dialog_trainer.errors import DataError
from dialog_trainer.files import sha256_of_file, sha256_of_texts
from dialog_trainer.types import Role, Turn


class ChitChat:
    """The BYU chit-chat challenge (pip package `chitchat-dataset`, MIT): conversations of two people.

    Messages that one person sends in a row are one turn; who speaks first is the user. The split is fixed: by a
    hash of the conversation's id, 90 % train, 5 % validation, 5 % test.
    """

    PACKAGE = "chitchat_dataset"

    def __init__(self) -> None:
        spec = importlib.util.find_spec(self.PACKAGE)
        if spec is None or spec.origin is None:
            raise DataError("data=chitchat needs the package chitchat-dataset: pip install chitchat-dataset")
        self.path = Path(spec.origin).parent / "dataset.json"

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        for identifier, conversation in json.loads(self.path.read_text(encoding="utf-8")).items():
            messages = [message for group in conversation["messages"] for message in group]
            if len({message["sender"] for message in messages}) == 2 and _chitchat_split(identifier) == split:
                yield identifier, _two_speakers(messages)

    def digest(self, split: str) -> str:
        return sha256_of_texts(sha256_of_file(self.path), split)

    def describe(self, split: str) -> str:
        return f"package chitchat-dataset, split {split}"


def _chitchat_split(identifier: str) -> str:
    share = hash_fraction(identifier)
    return "validation" if share < 0.05 else "test" if share < 0.10 else "train"


def _two_speakers(messages: list[dict]) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        role = Role.USER if message["sender"] == messages[0]["sender"] else Role.ASSISTANT
        text = " ".join(message["text"].split())
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, f"{turns[-1].text} {text}".strip())
        else:
            turns.append(Turn(role, text))
    return turns
