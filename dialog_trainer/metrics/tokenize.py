"""The one way in which text becomes words for scoring: lower case, mteval-v13a tokens (sacrebleu's)."""

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

_TOKENIZE = Tokenizer13a()


def split_words(text: str) -> list[str]:
    return _TOKENIZE(text.lower()).split()
