"""Held-out dialogues that also stand in the training split: exactly, after normalisation, or nearly.

Only the texts of the turns count, not who says them. Each kind holds the one before it.

- exact: the same turns.
- normalised: the same letters and digits in lower case, whatever stands between them, spaces and ends of turns included
  (spaced punctuation and a missing space are the commonest differences between copies). A dialogue without a letter
  or digit has only its exact copies.
- near: the Jaccard index of the sets of word 5-grams (Broder 1997, "On the resemblance and containment of documents") is
  at least 0.5; a word is a run of letters and digits in lower case, a 5-gram may cross turns, a dialogue of fewer than
  five words is one gram. Counted through an inverted index, with no hash that could collide. (At 0.8, one reply in 30
  of what was left of DailyDialog's test split was still the reply to the nearest training context.)
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dialog_trainer.data.dataset import DialogueDataset

GRAM_WORDS = 5
MIN_JACCARD = 0.5
# Near leaks are looked for in training splits of at most so many dialogues: beyond, that takes minutes.
MAX_COMPARED = 200_000
# So many held-out dialogues are indexed at a time; the training split is read once for each such part.
INDEXED_AT_ONCE = 10_000
# Dialogues read from a table at a time.
CHUNK = 1_000

_WORD = re.compile(r"[^\W_]+")
_Pairs = set[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Rising indices, in their tables, of the held-out and of the training dialogues that have a copy in the other split."""

    held_out: tuple[int, ...]
    training: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contamination:
    """The overlap of two splits by kind; `near` is None where the training split is too large to look for it.

    `num_held_out` is the number of all held-out dialogues.
    """

    exact: Overlap
    normalised: Overlap
    near: Overlap | None
    num_held_out: int

    def widest(self) -> Overlap:
        """Of the widest kind that was looked for: what `data.drop_leaks` drops and the clean part of a split is without."""
        return self.near or self.normalised

    def summary(self, split: str) -> str:
        """One line for people; `split` names the held-out split."""
        counts = f"{len(self.exact.held_out):,} of {self.num_held_out:,} {split} dialogues stand in the training split exactly, "
        counts += f"{len(self.normalised.held_out):,} after normalisation, "
        if self.near is None:
            counts += f"near ones not looked for (more than {MAX_COMPARED:,} training dialogues)"
        else:
            counts += f"{len(self.near.held_out):,} nearly"
        return f"{counts}; training dialogues concerned: {len(self.widest().training):,}"


def find_contamination(training: DialogueDataset, held_out: DialogueDataset) -> Contamination:
    """The dialogues of `held_out` that stand in `training`, and where."""
    exact, normalised = _copies(training, held_out)
    near = normalised | _near(training, held_out) if len(training) <= MAX_COMPARED else None
    return Contamination(_overlap(exact), _overlap(normalised), None if near is None else _overlap(near), len(held_out))


def _copies(training: DialogueDataset, held_out: DialogueDataset) -> tuple[_Pairs, _Pairs]:
    """`(held-out, training)` pairs with the same turns, and with the same letters and digits."""
    places: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
    for place, texts in enumerate(_texts(held_out, 0, len(held_out))):
        places[_letters(texts)].append((place, texts))
    normalised, exact = set(), set()
    for index, texts in enumerate(_texts(training, 0, len(training))):
        for place, others in places.get(_letters(texts), ()):
            normalised.add((place, index))
            if others == texts:
                exact.add((place, index))
    return exact, normalised


def _near(training: DialogueDataset, held_out: DialogueDataset) -> _Pairs:
    """`(held-out, training)` pairs with a Jaccard index of at least `MIN_JACCARD`."""
    pairs: _Pairs = set()
    for first in range(0, len(held_out), INDEXED_AT_ONCE):
        # Of each gram the places of the dialogues that have it, and of each dialogue the number of its grams.
        places, sizes = defaultdict(list), []
        end = min(first + INDEXED_AT_ONCE, len(held_out))
        for place, grams in enumerate(map(_grams, _texts(held_out, first, end))):
            sizes.append(len(grams))
            for gram in grams:
                places[gram].append(place)
        for index, grams in enumerate(map(_grams, _texts(training, 0, len(training)))):
            shared = Counter(place for gram in places.keys() & grams for place in places[gram])
            pairs |= {
                (first + place, index)
                for place, count in shared.items()
                if count / (sizes[place] + len(grams) - count) >= MIN_JACCARD
            }
    return pairs


def _letters(texts: Sequence[str]) -> str:
    return "".join(_WORD.findall(" ".join(texts).lower())) or "\n".join(texts)


def _grams(texts: Sequence[str]) -> set[tuple[str, ...]]:
    words = _WORD.findall(" ".join(texts).lower())
    if len(words) < GRAM_WORDS:
        return {tuple(words)} if words else set()
    return set(zip(*(words[start:] for start in range(GRAM_WORDS)), strict=False))


def _texts(table: DialogueDataset, first: int, end: int) -> Iterator[list[str]]:
    """The turns of the dialogues from `first` to before `end`, read in bulk."""
    rows = table.rows.select_columns(["texts"])
    for start in range(first, end, CHUNK):
        yield from rows[start : min(start + CHUNK, end)]["texts"]


def _overlap(pairs: _Pairs) -> Overlap:
    held_out, training = ({pair[side] for pair in pairs} for side in (0, 1))
    return Overlap(tuple(sorted(held_out)), tuple(sorted(training)))
