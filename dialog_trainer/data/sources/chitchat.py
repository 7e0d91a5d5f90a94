"""The source `data=chitchat`: conversations of two people from a pip package, without a hub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dialog_trainer.data.sources.protocol import RawDialogue, hash_fraction
from dialog_trainer.data.sources.reading import digest_of_data_file, open_data_file
from dialog_trainer.errors import DataError
from dialog_trainer.files import sha256_of_texts
from dialog_trainer.types import Role, Turn


class ChitChat:
    """The BYU chit-chat challenge (pip package `chitchat-dataset`, MIT).

    Consecutive messages of one person are one turn; the person who writes first is the user. The splits are fixed, by a
    hash of the conversation's id: 90 % train, 5 % validation, 5 % test.
    """

    PACKAGE = "chitchat_dataset"

    def __init__(self) -> None:
        spec = importlib.util.find_spec(self.PACKAGE)
        if spec is None or spec.origin is None:
            raise DataError("data=chitchat needs the package chitchat-dataset: pip install chitchat-dataset")
        self.path = Path(spec.origin).parent / "dataset.json"

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        with open_data_file(self.path) as file:
            try:
                conversations = json.load(file).items()
                for identifier, conversation in conversations:
                    messages = [message for group in conversation["messages"] for message in group]
                    if len({message["sender"] for message in messages}) == 2 and _split_of(identifier) == split:
                        yield identifier, _merge_messages(messages)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(f"{self.path} is damaged ({error}): install chitchat-dataset again") from None

    def digest(self, split: str) -> str:
        return sha256_of_texts(digest_of_data_file(self.path), split)

    def describe(self, split: str) -> str:
        return f"package chitchat-dataset, split {split}"


def _split_of(identifier: str) -> str:
    fraction = hash_fraction(identifier)
    return "validation" if fraction < 0.05 else "test" if fraction < 0.10 else "train"


def _merge_messages(messages: list[dict[str, Any]]) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        role = Role.USER if message["sender"] == messages[0]["sender"] else Role.ASSISTANT
        text = " ".join(message["text"].split())
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, f"{turns[-1].text} {text}".strip())
        else:
            turns.append(Turn(role, text))
    return turns
