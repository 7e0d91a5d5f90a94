"""Encodes texts by the tokenizer of a model, special tokens in them as plain characters, in bounded time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from tokenizers import AddedToken, Encoding, Tokenizer

from dialog_trainer.errors import ModelError
from dialog_trainer.files import sha256_of_texts

# A tokenizer takes about a second for a million characters. The regular expressions of its file can take for ever.
SECONDS = 10
CHARACTERS_PER_SECOND = 20_000

_CAUSE = "a regular expression of its tokenizer.json does not end on them"

T = TypeVar("T")


class TextEncoder:
    """Text to ids. "[SEP]" or "<|endoftext|>" in a text are characters: a text must not end a turn.

    A text follows a special token in every chat format, so that a tokenizer which marks the start of an input alone
    (Metaspace with `prepend_scheme` "first") does not mark it.
    """

    def __init__(self, description: str):
        """`description` is the tokenizer.json."""
        if '"first"' in description:
            parts = json.loads(description)
            _never_prepend(parts["pre_tokenizer"])
            description = json.dumps(parts)
        self._tokenizer = Tokenizer.from_str(description)
        self._tokenizer.encode_special_tokens = True
        # A tokenizer.json may ask for both, and a padded call of the tokenizer leaves them set.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text. Raises `ModelError` where the tokenizer of a stranger takes too long."""
        encodings: list[Encoding] = run_in_time(
            lambda: self._tokenizer.encode_batch_fast(texts, add_special_tokens=False), sum(map(len, texts))
        )
        return [encoding.ids for encoding in encodings]

    def encode_with_ends(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Ids of each text, and for each id the end of its characters in the text. Raises `ModelError`, as `encode`."""
        encodings: list[Encoding] = run_in_time(
            lambda: self._tokenizer.encode_batch(texts, add_special_tokens=False), sum(map(len, texts))
        )
        return [(encoding.ids, [end for _, end in encoding.offsets]) for encoding in encodings]

    def added_tokens(self) -> dict[int, AddedToken]:
        """The added tokens by id."""
        return self._tokenizer.get_added_tokens_decoder()

    def id_of(self, token: str) -> int:
        """The id of a token. Raises `KeyError`."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return found

    def digest(self) -> str:
        """A hash that changes when the result of `encode` may change."""
        return sha256_of_texts(self._tokenizer.to_str())


def _never_prepend(part: object) -> None:
    if isinstance(part, dict):
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
        for value in part.values():
            _never_prepend(value)
    elif isinstance(part, list):
        for value in part:
            _never_prepend(value)


def run_in_time(work: Callable[[], T], characters: int, what: str = "the tokenizer", cause: str = _CAUSE) -> T:
    """`work()`, given up where it takes far longer than so many characters need. It must release the GIL at times."""
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # raised again below
            outcome.append(error)

    thread = threading.Thread(target=run, name="tokenizer", daemon=True)
    thread.start()
    for _ in range(SECONDS + characters // CHARACTERS_PER_SECOND):  # not one wait: a process that sleeps is not slow
        thread.join(1)
        if not thread.is_alive():
            break
    else:
        raise ModelError(
            f"{what} has not finished {characters:,} characters in time: {cause}; choose another model.pretrained_model"
        )
    if isinstance(outcome[0], BaseException):
        if is_panic(outcome[0]):
            raise ModelError(
                f"the tokenizer failed ({outcome[0]}): its tokenizer.json is damaged, or has a regular expression that "
                "does not end; choose another model.pretrained_model"
            )
        raise outcome[0]
    return outcome[0]


def is_panic(error: BaseException) -> bool:
    """Whether it is an error of the Rust code of tokenizers, which is no `Exception`."""
    return type(error).__name__ == "PanicException"
