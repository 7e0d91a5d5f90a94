"""Cleans raw dialogues: drops turns without visible text, then dialogues of fewer than two turns, and counts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.types import Dialogue, Role

# White space, controls, and what Unicode calls "default ignorable" (zero-width spaces, joiners, marks of direction,
# variation selectors, fillers), with the blank pattern of Braille.
_INVISIBLE = re.compile(
    "[\\s\\x00-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202e"
    "\\u2060-\\u206f\\u2800\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufffb"
    "\\U0001bca0-\\U0001bca3\\U0001d173-\\U0001d17a\\U000e0000-\\U000e0fff]*"
)
_ROLE_NAMES = [role.name.lower() for role in Role]  # by the number: the hash of an enum is slow


@dataclass(slots=True)
class ReadCounts:
    """Counts of what was kept and dropped of one split.

    `turns_by_role` has the name of each role (of tools and the like, its label) and its number of kept turns; `unread` the
    keys of rows that were not read, each with its number of rows or turns; `by_position` the dialogues whose roles the
    data do not name; `by_source` the dialogues that each of several sources gave.
    """

    dialogues: int = 0
    turns: int = 0
    empty_turns: int = 0
    short_dialogues: int = 0
    turns_by_role: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    by_position: int = 0
    by_source: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = {"dialogues of fewer than two turns": self.short_dialogues, "empty turns": self.empty_turns}
        dropped = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        sources = ", ".join(f"{name} {count:,}" for name, count in self.by_source.items())
        return (
            f"{self.dialogues:,} dialogues, {self.turns:,} turns"
            + (f" (dropped: {dropped})" if dropped else "")
            + (f" ({sources})" if sources else "")
        )


def is_invisible(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return _INVISIBLE.fullmatch(text) is not None


def clean_dialogues(raw: Iterable[RawDialogue], counts: ReadCounts) -> Iterator[Dialogue]:
    """Strips texts, drops turns without visible text and then dialogues of fewer than two turns, and adds to `counts`.

    A turn keeps its role when an empty turn before it is dropped.
    """
    for identifier, turns in raw:
        kept = []
        for turn in turns:
            text = turn.text.strip()
            # Most turns begin with a letter of ASCII: they need no pattern.
            if not text or (not " " < text[0] < "\x7f" and is_invisible(text)):
                continue
            kept.append(turn if len(text) == len(turn.text) else dataclasses.replace(turn, text=text))
        counts.empty_turns += len(turns) - len(kept)
        if len(kept) < 2:
            counts.short_dialogues += 1
            continue
        counts.dialogues += 1
        counts.turns += len(kept)
        for turn in kept:
            name = turn.label or _ROLE_NAMES[turn.role]
            counts.turns_by_role[name] = counts.turns_by_role.get(name, 0) + 1
        yield Dialogue(identifier, tuple(kept))
