"""Splits text into words for scoring: lower case, mteval-v13a tokens (sacrebleu's)."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a


def split_words(text: str) -> list[str]:
    """The words of `text`; punctuation marks are words."""
    words: list[str] = _tokenizer()(text.lower()).split()
    return words


@cache
def _tokenizer() -> "Tokenizer13a":
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a  # slow to import, and the registry does not need it

    return Tokenizer13a()  # type: ignore[no-untyped-call]  # sacrebleu does not annotate it
