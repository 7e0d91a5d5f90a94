"""Encodes texts by the tokenizer of a model, special tokens in them as plain characters, in bounded time."""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from tokenizers import AddedToken, Encoding, Tokenizer

from dialog_trainer.errors import ModelError
from dialog_trainer.files import sha256_of_texts

# A tokenizer takes about a second for a million characters. The regular expressions of its file can take for ever.
SECONDS = 10
CHARACTERS_PER_SECOND = 20_000

_CAUSE = "a regular expression of its tokenizer.json does not end on them"

T = TypeVar("T")


# The names of control tokens: <|im_start|>, </s>, [INST], {eos}.
_CONTROL_NAME = re.compile(r"[<\[{|]\S+[>\]}|]")
_BYTE_NAME = re.compile(r"<0x[0-9A-F]{2}>")


class UnfinishedError(ModelError):
    """Work of a stranger's file that was given up. Its thread may still run: nothing may be done in its place."""


class TextEncoder:
    """Text to ids. "[SEP]" or "<|endoftext|>" in a text are characters: a text must not end a turn.

    That holds for special tokens and for other added tokens with the name of a control token, as `<tool_call>`
    (`is_control`). Other added tokens, as words, emoji or white space, are found in texts as transformers finds them.

    A text follows a token in every chat format, so that a tokenizer which marks the start of an input alone (Metaspace
    with `prepend_scheme` "first") does not mark it, unless it is encoded with `at_start`.
    """

    def __init__(self, description: str):
        """`description` is the tokenizer.json."""
        self._description = inside = description
        if '"first"' in description:
            parts = json.loads(description)
            if _never_prepend(parts["pre_tokenizer"]):
                inside = json.dumps(parts)
        self._tokenizer = self._inside = self._at_start = _load(inside)
        added = self._tokenizer.get_added_tokens_decoder()
        self._shown = sorted(token.content for token in added.values() if is_control(token) and not token.special)
        hidden = [token.content for index, token in added.items() if is_control(token) and self._writes(index, token)]
        if hidden or self._shown:
            self._inside = self._at_start = _load(_hide_control_tokens(inside, hidden, self._shown))
        if inside is not description:
            self._at_start = _load(_hide_control_tokens(description, hidden, self._shown))

    def __reduce__(
        self,
    ) -> tuple[type[TextEncoder], tuple[str]]:  # `encode_special_tokens` is no part of a tokenizer.json
        return type(self), (self._description,)

    def _writes(self, index: int, token: AddedToken) -> bool:
        """Whether the model itself makes the token of its characters, as Unigram does."""
        if len(token.content) == 1 or _BYTE_NAME.fullmatch(token.content):
            return False
        try:
            pieces = self._tokenizer.model.tokenize(token.content)
        except Exception:  # tokenizers raises nothing more special where a text has no tokens
            return False
        return any(piece.id == index and piece.value == token.content for piece in pieces)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text. Raises `ModelError` where the tokenizer of a stranger takes too long."""
        encodings: list[Encoding] = run_in_time(
            lambda: self._inside.encode_batch_fast(texts, add_special_tokens=False), sum(map(len, texts))
        )
        return [encoding.ids for encoding in encodings]

    def encode_with_ends(self, texts: Sequence[str], at_start: bool = False) -> list[tuple[list[int], list[int]]]:
        """Ids of each text, and for each id the end of its characters in the text. Raises `ModelError`, as `encode`.

        `at_start`: no token stands before these texts.
        """
        tokenizer = self._at_start if at_start else self._inside
        encodings: list[Encoding] = run_in_time(
            lambda: tokenizer.encode_batch(texts, add_special_tokens=False), sum(map(len, texts))
        )
        return [(encoding.ids, [end for _, end in encoding.offsets]) for encoding in encodings]

    def added_tokens(self) -> dict[int, AddedToken]:
        """The added tokens by id."""
        return self._tokenizer.get_added_tokens_decoder()

    def why_found_otherwise(self, token: AddedToken) -> str | None:
        """Why transformers may find a control token elsewhere than at its characters; None if it does not."""
        if token.single_word:
            return f"{token.content} is found between words alone (single_word)"
        if token.normalized and self._tokenizer.normalizer is not None:
            return f"{token.content} is found in normalized text alone (normalized)"
        return None

    def id_of(self, token: str) -> int:
        """The id of a token. Raises `KeyError`."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return found

    def digest(self) -> str:
        """A hash that changes when the result of `encode` may change."""
        return sha256_of_texts(self._tokenizer.to_str(), *self._shown)


def is_control(token: AddedToken) -> bool:
    """Whether an added token is characters in a text: a special one, or one with a name as `<tool_call>`."""
    return token.special or _CONTROL_NAME.fullmatch(token.content) is not None


def _load(description: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(description)
    tokenizer.encode_special_tokens = True
    # A tokenizer.json may ask for both, and a padded call of the tokenizer leaves them set.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _hide_control_tokens(description: str, hidden: Collection[str], shown: Collection[str]) -> str:
    """A tokenizer.json in which no text has the `hidden` tokens of the vocabulary, nor the `shown` added tokens.

    The ids stay: hidden tokens get names that nobody can guess, and shown ones become special.
    """
    secret = secrets.token_hex(16)
    names = {name: secret + name for name in hidden}
    parts = json.loads(description)
    for token in parts["added_tokens"]:
        token["special"] |= token["content"] in shown
        token["content"] = names.get(token["content"], token["content"])
    model = parts["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(name, name): index for name, index in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(name, name), score] for name, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint([*pair, "".join(pair)])]
    return json.dumps(parts)


def _never_prepend(part: object) -> bool:
    """Whether there was something to change."""
    changed = False
    if isinstance(part, dict):
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
            changed = True
        part = list(part.values())
    for value in part if isinstance(part, list) else ():
        changed = _never_prepend(value) or changed
    return changed


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
        amount = f" {characters:,} characters" if characters else ""
        raise UnfinishedError(
            f"{what} has not finished{amount} in time: {cause}; choose another model.pretrained_model"
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
