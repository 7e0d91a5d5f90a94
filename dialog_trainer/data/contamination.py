"""Contamination: held-out dialogues that are also in the training split, exactly, after normalization, or nearly.

Only the texts of the turns count, not their roles. Each kind includes the one before it.

- exact: the same turns.
- normalized: the same letters and digits in lower case; spaces, punctuation and the ends of turns are ignored (spaced
  punctuation and missing spaces are the most common differences between copies). A dialogue without letters or digits
  has only exact copies.
- near: the Jaccard index of the sets of word 5-grams (Broder 1997, "On the resemblance and containment of documents") is
  at least 0.5. A word is a string of letters and digits in lower case, or one character of a script without spaces; a
  5-gram may cross turns; a dialogue of fewer than five words is one gram. Counted exactly, with an inverted index. (At
  0.8, one reply in 30 that was left in DailyDialog's test split was still the reply to the most similar training
  context.)
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dialog_trainer.data.dataset import DialogueDataset

GRAM_WORDS = 5
MIN_JACCARD = 0.5
# Near copies are looked for in training splits of at most so many dialogues; in larger ones it would take minutes.
MAX_COMPARED = 200_000
# Held-out dialogues indexed at a time; the training split is read once for each such part.
INDEXED_AT_ONCE = 10_000
# Dialogues read from a dataset at a time.
CHUNK = 1_000

# Scripts without spaces between words: Chinese and Japanese, Thai, Lao, Burmese, Khmer. Each of their characters is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
# (held-out index, training index)
_Pairs = set[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Ascending indices of the held-out and of the training dialogues that have a copy in the other split."""

    held_out: tuple[int, ...]
    training: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contamination:
    """The overlap of two splits by kind; `near` is None if the training split is too large to look for it.

    `num_held_out` is the number of all held-out dialogues.
    """

    exact: Overlap
    normalized: Overlap
    near: Overlap | None
    num_held_out: int

    def widest(self) -> Overlap:
        """The overlap of the widest kind that was looked for: `data.drop_leaks` and clean scores leave it out."""
        return self.near or self.normalized

    def summary(self, split: str) -> str:
        """One line for people; `split` names the held-out split."""
        counts = (
            f"{split}: {len(self.exact.held_out):,} of {self.num_held_out:,} dialogues are in the training split exactly, "
            f"{len(self.normalized.held_out):,} after normalization, "
        )
        if self.near is None:
            counts += f"near copies not looked for (more than {MAX_COMPARED:,} training dialogues)"
        else:
            counts += f"{len(self.near.held_out):,} nearly"
        return f"{counts}; training dialogues concerned: {len(self.widest().training):,}"


def find_contamination(training: DialogueDataset, held_out: DialogueDataset) -> Contamination:
    """The dialogues of `held_out` that are also in `training`, and their copies there."""
    exact, normalized = _find_copies(training, held_out)
    near = normalized | _find_near_copies(training, held_out) if len(training) <= MAX_COMPARED else None
    return Contamination(_overlap(exact), _overlap(normalized), None if near is None else _overlap(near), len(held_out))


def _find_copies(training: DialogueDataset, held_out: DialogueDataset) -> tuple[_Pairs, _Pairs]:
    """Pairs with the same turns, and pairs with the same letters and digits."""
    by_letters: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
    for index, texts in enumerate(_read_texts(held_out, 0, len(held_out))):
        by_letters[_letters(texts)].append((index, texts))
    exact: _Pairs = set()
    normalized: _Pairs = set()
    for training_index, texts in enumerate(_read_texts(training, 0, len(training))):
        for index, held_out_texts in by_letters.get(_letters(texts), ()):
            normalized.add((index, training_index))
            if held_out_texts == texts:
                exact.add((index, training_index))
    return exact, normalized


def _find_near_copies(training: DialogueDataset, held_out: DialogueDataset) -> _Pairs:
    """Pairs with a Jaccard index of at least `MIN_JACCARD`."""
    pairs: _Pairs = set()
    for first in range(0, len(held_out), INDEXED_AT_ONCE):
        # The inverted index: the dialogues that have a gram; and the number of grams of each dialogue.
        by_gram: dict[tuple[str, ...], list[int]] = defaultdict(list)
        sizes: list[int] = []
        for grams in map(_grams, _read_texts(held_out, first, min(first + INDEXED_AT_ONCE, len(held_out)))):
            for gram in grams:
                by_gram[gram].append(len(sizes))
            sizes.append(len(grams))
        for training_index, grams in enumerate(map(_grams, _read_texts(training, 0, len(training)))):
            common = Counter(index for gram in by_gram.keys() & grams for index in by_gram[gram])
            pairs |= {
                (first + index, training_index)
                for index, count in common.items()
                if count / (sizes[index] + len(grams) - count) >= MIN_JACCARD
            }
    return pairs


def _letters(texts: Sequence[str]) -> str:
    return "".join(WORD.findall(" ".join(texts).lower())) or "\n".join(texts)


def _grams(texts: Sequence[str]) -> set[tuple[str, ...]]:
    words = WORD.findall(" ".join(texts).lower())
    if len(words) < GRAM_WORDS:
        return {tuple(words)} if words else set()
    return set(zip(*(words[start:] for start in range(GRAM_WORDS)), strict=False))


def _read_texts(dataset: DialogueDataset, first: int, end: int) -> Iterator[list[str]]:
    """The turns of the dialogues from `first` to before `end`, read in bulk."""
    texts = dataset.rows.table.column("texts")
    for start in range(first, end, CHUNK):
        yield from texts.slice(start, min(CHUNK, end - start)).to_pylist()


def _overlap(pairs: _Pairs) -> Overlap:
    held_out, training = ({pair[side] for pair in pairs} for side in (0, 1))
    return Overlap(tuple(sorted(held_out)), tuple(sorted(training)))
